"""How much a step computed: model FLOPs by phase, and what packing wasted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from megatron_longrlvr.model.flops import (
    FORWARD,
    FORWARD_AND_BACKWARD,
    NO_WORK,
    Work,
    causal_pairs,
    forward_flops,
    sampling_work,
    with_value_head,
)
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.observability import names
from megatron_longrlvr.parallel.layout import ParallelLayout, padded_lengths
from megatron_longrlvr.stages import MicroBatch, PackedBatch, Sample
from megatron_longrlvr.trainer.step import StepOutcome

_TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Counts one rank's share of a step; the sums over data-parallel ranks are the step's."""

    spec: ModelSpec
    layout: ParallelLayout
    row_multiple: int
    """Number that the tokens of a row, padding included, divide by."""

    num_logprob_passes: int
    """Forward passes before the update: the proximal policy's where it is recomputed, and the
    reference's where there is one."""

    critic: ModelSpec | None = None
    """Of the value model, where there is one."""

    def flops(self, outcome: StepOutcome) -> dict[str, float]:
        """Model FLOPs in units of 1e12, by metric name."""
        training = _sum(packed_work(batch) for batch in outcome.prepared.packed)
        trained = forward_flops(self.spec, training) / _TERA
        samples = [scored.sample for scored in outcome.prepared.collected.scored.scored]
        counted = {
            names.FLOPS_GENERATE_TFLOP: forward_flops(self.spec, _sampled(samples)) / _TERA,
            names.FLOPS_LOGPROBS_TFLOP: trained * self.num_logprob_passes * FORWARD,
            # Nothing while a critic learns alone.
            names.FLOPS_UPDATE_TFLOP: trained * FORWARD_AND_BACKWARD * bool(outcome.updates),
        }
        if self.critic is not None:
            valued = forward_flops(with_value_head(self.critic), training) / _TERA
            counted[names.FLOPS_CRITIC_TFLOP] = valued * (FORWARD + FORWARD_AND_BACKWARD)
        return counted

    def packed_tokens(self, outcome: StepOutcome) -> tuple[int, int, int]:
        """Tokens of all micro-batches: real ones, padding, and prompt tokens computed again."""
        micro_batches = [one for batch in outcome.prepared.packed for one in batch.micro_batches]
        real = sum(len(micro_batch.token_ids) for micro_batch in micro_batches)
        padded = sum(sum(self._padded(micro_batch)) for micro_batch in micro_batches)
        repeated = sum(batch.num_repeated_prompt_tokens for batch in outcome.prepared.packed)
        return real, padded - real, repeated

    def _padded(self, micro_batch: MicroBatch) -> list[int]:
        return padded_lengths(
            [segment.num_tokens for segment in micro_batch.segments],
            cp=self.layout.cp,
            multiple=self.row_multiple,
        )


def packed_work(batch: PackedBatch) -> Work:
    """Work of one forward pass over a rank's micro-batches."""
    return _sum(_row_work(micro_batch) for micro_batch in batch.micro_batches)


def utilization(
    tflop: Mapping[str, float], seconds: Mapping[str, float], *, ranks: int, peak_tflops: float
) -> dict[str, float]:
    """Share of the devices' peak rate that model FLOPs reached, by phase.

    Args:
        tflop: FLOPs of all ranks in units of 1e12, by metric name.
        seconds: By metric name of the timing of a phase.
        ranks: Devices.
        peak_tflops: Of one device, in 1e12 per second.
    """
    return {
        utilized: tflop[counted] / (seconds[timed] * ranks * peak_tflops)
        for counted, timed, utilized in _PHASES
        if counted in tflop and seconds[timed] > 0
    }


_PHASES = (
    (names.FLOPS_GENERATE_TFLOP, names.TIMING_GENERATE_S, names.MFU_GENERATE_FRAC),
    (names.FLOPS_LOGPROBS_TFLOP, names.TIMING_LOGPROBS_S, names.MFU_LOGPROBS_FRAC),
    (names.FLOPS_UPDATE_TFLOP, names.TIMING_UPDATE_S, names.MFU_UPDATE_FRAC),
    (names.FLOPS_CRITIC_TFLOP, names.TIMING_CRITIC_S, names.MFU_CRITIC_FRAC),
)


def _sampled(samples: Iterable[Sample]) -> Work:
    by_prompt = groupby(samples, key=lambda sample: sample.prompt)
    return _sum(
        sampling_work(len(prompt.token_ids), [len(sample.token_ids) for sample in group])
        for prompt, group in by_prompt
    )


def _row_work(micro_batch: MicroBatch) -> Work:
    """Work of a packed row: every segment attends to itself and to what it continues."""
    pairs = 0
    for segment in micro_batch.segments:
        before = 0
        if segment.continues is not None:
            before = micro_batch.segments[segment.continues].num_tokens
        pairs += causal_pairs(segment.num_tokens, before=before)
    return Work(
        tokens=len(micro_batch.token_ids),
        pairs=pairs,
        predictions=int(micro_batch.is_response.sum()),
    )


def _sum(works: Iterable[Work]) -> Work:
    return sum(works, start=NO_WORK)
