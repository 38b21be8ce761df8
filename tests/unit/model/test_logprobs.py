"""Chunked, vocabulary-parallel log-probabilities equal a full log-softmax, and so do gradients.

One rank here; the shards of several ranks are covered by tests/distributed/test_layout_equality.py.
Memory: beyond inputs and outputs, one chunk of logits, whatever the number of tokens.
"""

import pytest
import torch

from megatron_longrlvr.model.logprobs import VocabularyShard, token_logprobs, vocabulary_shard
from tests.support.live_tensors import LiveTensors

VOCAB, PADDED, HIDDEN = 11, 16, 6
# Logits reach 10, where one float32 ulp is 1e-6; a few of them add up.
ATOL = 5e-6


class OneRank:
    def size(self):
        return 1


SHARD = VocabularyShard(start=0, num_real=VOCAB, group=OneRank())


def inputs(num_tokens):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_tokens, HIDDEN, generator=generator, requires_grad=True)
    weight = torch.randn(PADDED, HIDDEN, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCAB, (num_tokens,), generator=generator)
    return hidden, weight, targets


def full(hidden, weight, targets, temperature):
    log_p = (hidden @ weight[:VOCAB].t() / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("num_tokens", [0, 1, 7])
def test_values_and_gradients_equal_the_full_softmax(num_tokens, temperature, chunk_tokens):
    hidden, weight, targets = inputs(num_tokens)
    expected = full(hidden, weight, targets, temperature)
    actual = token_logprobs(
        hidden, weight, targets, shard=SHARD, temperature=temperature, chunk_tokens=chunk_tokens
    )
    coefficients = torch.linspace(-1, 2, num_tokens)
    gradients = []
    for logprob, entropy in (expected, actual):
        loss = (coefficients * logprob).sum() + 0.3 * (coefficients.square() * entropy).sum()
        gradients.append(torch.autograd.grad(loss, (hidden, weight)))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=ATOL, rtol=0)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2 * ATOL, rtol=0)


def test_rows_that_pad_the_vocabulary_get_no_gradient():
    hidden, weight, targets = inputs(5)
    logprobs, entropy = token_logprobs(
        hidden, weight, targets, shard=SHARD, temperature=1.0, chunk_tokens=2
    )
    (logprobs.sum() + entropy.sum()).backward()
    assert torch.count_nonzero(weight.grad[VOCAB:]) == 0
    assert torch.isfinite(weight.grad).all()


def test_far_apart_logits_stay_finite():
    hidden = torch.tensor([[1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    shard = VocabularyShard(start=0, num_real=2, group=OneRank())
    logprobs, entropy = token_logprobs(
        hidden, weight, torch.tensor([1]), shard=shard, temperature=1.0, chunk_tokens=4
    )
    (logprobs + entropy).sum().backward()
    assert logprobs.item() == pytest.approx(-2000.0)
    assert entropy.item() == pytest.approx(0.0)
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize(
    ("rank", "start", "num_real"), [(0, 0, 4), (1, 4, 4), (2, 8, 2), (3, 12, 0)]
)
def test_shards_of_a_padded_vocabulary(rank, start, num_real):
    # 10 tokens in rows of 4: the third rank holds 2 tokens, the fourth only padding.
    shard = vocabulary_shard(num_rows=4, vocab_size=10, rank=rank, group=OneRank())
    assert (shard.start, shard.num_real) == (start, num_real)


def test_logits_exist_for_one_chunk_at_a_time():
    def is_more_than_a_chunk(tensor):
        is_rows = tensor.dim() == 2 and tensor.size(1) in (VOCAB, PADDED)
        return is_rows and tensor.size(0) > HIDDEN  # the transposed weight has HIDDEN rows

    hidden, weight, targets = inputs(10)
    with LiveTensors(is_more_than_a_chunk) as logits:
        logprobs, entropy = token_logprobs(
            hidden, weight, targets, shard=SHARD, temperature=1.0, chunk_tokens=4
        )
        (logprobs.sum() + entropy.sum()).backward()
    assert logits.peak_bytes == 0
