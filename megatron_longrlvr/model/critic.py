"""The critic: a value model on this rank, and its optimizer.

The value of a response's token is read where the model predicts that token: it is what the critic
expects to be earned from there on, before the token is known. So a critic runs over the rows of the
policy, prompts shared or not, and reads the same places.

Shapes: T tokens of a micro-batch, N response tokens predicted on this rank, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from megatron_longrlvr.algorithms.value_loss import SUM_NAMES, ValueLossInput, value_loss
from megatron_longrlvr.checkpoint.weights import (
    WEIGHTS_DIRECTORY,
    holds_torch_dist,
    read_body,
)
from megatron_longrlvr.config.critic import CriticConfig
from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.build import build_chunks_of
from megatron_longrlvr.model.critic_model import CriticModel
from megatron_longrlvr.model.hf_weights import load_hf_critic
from megatron_longrlvr.model.host_memory import HostMemory
from megatron_longrlvr.model.local_batch import LocalBatch
from megatron_longrlvr.model.network import Network
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.schedule import Ending, run_pipeline
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.trainee import Trainee
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import MicroBatch, UpdateStats, ValueBatch

# What a sum over tokens is called once it is divided by their number.
_MEAN_NAMES = {"clipped": "clipped_frac", "square_error": "square_error_mean"}


class Critic(Trainee):
    """Computes values and takes optimizer steps; every rank calls it alike."""

    role = "critic"

    def __init__(
        self,
        network: Network,
        config: CriticConfig,
        *,
        num_optimizer_steps: int,
        is_offloaded: bool = False,
    ) -> None:
        """Give a critic's network an optimizer.

        Args:
            network: Of :class:`CriticModel` chunks; see :func:`load_critic`.
            config: The recipe's section.
            num_optimizer_steps: Length of the run, for the decay of the learning rate.
            is_offloaded: Whether it lies in host memory between :meth:`leave` and :meth:`arrive`.
        """
        super().__init__(network, config.optimizer, num_optimizer_steps=num_optimizer_steps)
        self.config = config
        self._host = HostMemory(self) if is_offloaded else None

    def leave(self) -> None:
        """Give its memory on the device to others; does nothing where it is not offloaded."""
        if self._host is not None:
            self._host.take()

    def arrive(self) -> None:
        """Come back to the device; does nothing where it is there."""
        if self._host is not None:
            self._host.give()

    @contextmanager
    def present(self) -> Iterator[None]:
        """Be on the device meanwhile, and afterwards where it was."""
        was_away = self._host is not None and self._host.holds
        self.arrive()
        try:
            yield
        finally:
            if was_away:
                self.leave()

    def learns_alone(self, step: int) -> bool:
        """Whether the policy does not learn in a training step, counted from 1."""
        return step <= self.config.warmup_steps

    def values(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """What is expected to be earned from each response token on, without gradient.

        Returns:
            One [T] float32 tensor per micro-batch, 0 outside responses, on every rank.
        """
        return self.network.read(micro_batches, _read_values)

    def update(self, batch: ValueBatch) -> UpdateStats:
        """Take one optimizer step on the value loss.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank; weights and optimizer
                are as before the call, on every rank.
        """

        def run(local: Sequence[LocalBatch]) -> Sequence[Mapping[str, Tensor]]:
            ending = value_regression(batch, clip=self.config.value_clip)
            return run_pipeline(self.wrapped, local, ending, forward_only=False)

        step = self._step(batch.packed, run, names=("loss", *SUM_NAMES))
        means = {
            _MEAN_NAMES[name]: step.sums[name] / batch.packed.num_global_response_tokens
            for name in SUM_NAMES
        }
        return UpdateStats(
            version=self.version,
            metrics={
                "loss": step.sums["loss"],
                **means,
                "grad_norm": step.grad_norm,
                "lr": step.lr,
            },
        )


def value_regression(batch: ValueBatch, *, clip: float | None) -> Ending:
    """The value loss of a batch; micro-batches beyond its own are placeholders without tokens."""

    def ending(
        index: int, local: LocalBatch, chunk: PolicyModel, hidden: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values = _read_values(chunk, hidden, local)

        def at_targets(rows: Sequence[Tensor]) -> Tensor:
            if index >= len(rows):
                return values.detach()
            return rows[index].to(values.device)[local.target_index]

        inputs = ValueLossInput(
            values=values,
            old_values=at_targets(batch.values),
            returns=at_targets(batch.returns),
            loss_weights=at_targets([row.loss_weights for row in batch.packed.micro_batches]),
        )
        loss, sums = value_loss(inputs, clip=clip)
        return loss, {"loss": loss.detach(), **sums}

    return ending


def load_critic(
    folder: Path, spec: ModelSpec, groups: ProcessGroups, model: ModelConfig
) -> Network:
    """Build a critic and fill it from a model folder. Collective.

    Args:
        folder: A Hugging Face folder, of a language model or of a reward model, or a language
            model converted to torch_dist. Without a head in it, the value head starts at 0.
        spec: What :func:`~megatron_longrlvr.model.spec.read_critic_spec` says of the folder.
        groups: Of this rank.
        model: Precision and recomputation.
    """
    chunks = build_chunks_of(CriticModel, spec, groups, model)
    if holds_torch_dist(folder):
        read_body(folder / WEIGHTS_DIRECTORY, chunks, groups)
    else:
        place = {"tp_rank": groups.tp_rank, "tp_size": groups.layout.tp}
        load_hf_critic(chunks, folder, spec, **place)
    return Network(spec=spec, groups=groups, model=model, chunks=chunks)


def _read_values(chunk: PolicyModel, hidden: Tensor, _batch: LocalBatch) -> Tensor:
    assert isinstance(chunk, CriticModel), f"expected a CriticModel, got {type(chunk).__name__}"
    return chunk.values(hidden)
