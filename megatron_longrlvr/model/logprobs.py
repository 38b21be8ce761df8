"""Log-probabilities and entropies of given tokens, without ever holding all logits.

Logits of a long response over a large vocabulary are the commonest out-of-memory of
long-context training. Here they exist for a chunk of tokens at a time, as this rank's share
of the vocabulary, and are computed again in backward.

Shapes: N tokens, C tokens of a chunk, H hidden, W this rank's share of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class VocabularyShard:
    """This rank's rows of the output layer."""

    start: int
    """Token id of the first row."""

    num_real: int
    """Rows that are tokens; the rest pads the vocabulary and has no probability."""

    group: ProcessGroup
    """Ranks that hold the other rows."""


def vocabulary_shard(
    *, num_rows: int, vocab_size: int, rank: int, group: ProcessGroup
) -> VocabularyShard:
    """Rows of a tensor-parallel rank that holds ``num_rows`` of a padded vocabulary."""
    start = rank * num_rows
    num_real = min(max(vocab_size - start, 0), num_rows)
    return VocabularyShard(start=start, num_real=num_real, group=group)


def shard_logits(hidden: Tensor, weight: Tensor, shard: VocabularyShard) -> Tensor:
    """[C, W] float32 logits of this rank's rows; -inf where a row pads the vocabulary."""
    logits = torch.matmul(hidden, weight.t()).float()
    logits[:, shard.num_real :] = -torch.inf
    return logits


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    shard: VocabularyShard,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution.

    Every rank of ``shard.group`` must call this with the same hidden states and targets.

    Args:
        hidden: [N, H] hidden states that predict the targets. Their gradient is this rank's share
            and is summed over the group by whatever produced them.
        weight: [W, H] this rank's rows of the output layer.
        targets: [N] int64 token ids.
        shard: Which rows ``weight`` holds.
        temperature: Logits are divided by it first.
        chunk_tokens: Tokens whose logits exist at the same time.

    Returns:
        Two [N] float32 tensors, in nats, both differentiable.
    """
    logprobs, entropy = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, shard, temperature, chunk_tokens
    )
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        shard: VocabularyShard,
        temperature: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        logprobs, log_norms, entropies = [], [], []
        for rows in _row_ranges(len(targets), chunk_tokens):
            logits = _real_logits(hidden[rows], weight, shard, temperature)
            chosen = _chosen_logits(logits, targets[rows], shard)
            peak = _peak(logits, shard)
            shifted = logits.sub_(peak[:, None])
            weights = shifted.exp()
            total = _sum(weights.sum(dim=1), shard)
            # Sum of exp(x) * x; a product of vectors needs no third matrix.
            weighted = _sum(torch.einsum("cw,cw->c", weights, shifted), shard)
            log_total = total.log()
            logprobs.append(chosen - peak - log_total)
            log_norms.append(peak + log_total)
            entropies.append(log_total - weighted / total)
        empty = hidden.new_zeros(0, dtype=torch.float32)
        log_norm, entropy = torch.cat([empty, *log_norms]), torch.cat([empty, *entropies])
        ctx.save_for_backward(hidden, weight, targets, log_norm, entropy)
        ctx.shard, ctx.temperature, ctx.chunk_tokens = shard, temperature, chunk_tokens
        ctx.set_materialize_grads(False)
        return torch.cat([empty, *logprobs]), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden, weight, targets, log_norm, entropy = ctx.saved_tensors
        grad_logprob, grad_entropy = grads
        if grad_logprob is None:
            grad_logprob = torch.zeros_like(log_norm)
        shard: VocabularyShard = ctx.shard
        grad_hidden = torch.empty_like(hidden)
        # fp32: many chunks are summed into it.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows in _row_ranges(len(targets), ctx.chunk_tokens):
            log_p = _real_logits(hidden[rows], weight, shard, ctx.temperature)
            log_p.sub_(log_norm[rows, None])
            # d logprob / d logit = onehot - p;  d entropy / d logit = -p (log p + entropy)
            if grad_entropy is None:
                grad = log_p.exp_().mul_(-grad_logprob[rows, None])
            else:
                slope = (log_p + entropy[rows, None]).mul_(grad_entropy[rows, None])
                grad = log_p.exp_().mul_(slope.add_(grad_logprob[rows, None]).neg_())
            local, is_local = _local_targets(targets[rows], shard)
            grad[is_local, local[is_local]] += grad_logprob[rows][is_local]
            if ctx.temperature != 1.0:
                grad.div_(ctx.temperature)
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = grad @ weight[: shard.num_real]
            grad_weight[: shard.num_real] += grad.t() @ hidden[rows]
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None


def _real_logits(
    hidden: Tensor, weight: Tensor, shard: VocabularyShard, temperature: float
) -> Tensor:
    """[C, R] float32 logits of the R rows that are tokens, over the temperature; the caller's own.

    Without the padding of the vocabulary every number is finite.
    """
    logits = torch.matmul(hidden, weight[: shard.num_real].t()).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def _row_ranges(num_rows: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, num_rows, chunk))


def _local_targets(targets: Tensor, shard: VocabularyShard) -> tuple[Tensor, Tensor]:
    local = targets - shard.start
    is_local = (local >= 0) & (local < shard.num_real)
    return local, is_local


def _peak(logits: Tensor, shard: VocabularyShard) -> Tensor:
    """[C] largest logit over all ranks of the vocabulary."""
    peak = logits.new_full((len(logits),), -torch.inf)  # for a rank that holds padding alone
    if shard.num_real:
        peak = logits.amax(dim=1)
    if shard.group.size() > 1:
        dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=shard.group)
    return peak


def _chosen_logits(logits: Tensor, targets: Tensor, shard: VocabularyShard) -> Tensor:
    local, is_local = _local_targets(targets, shard)
    picked = logits.new_zeros(len(targets))
    picked[is_local] = logits[is_local, local[is_local]]
    return _sum(picked, shard)


def _sum(values: Tensor, shard: VocabularyShard) -> Tensor:
    # Every rank of the vocabulary holds the same tokens, so all of them reach this.
    if shard.group.size() > 1:
        dist.all_reduce(values, group=shard.group)
    return values
