"""Seconds of a forward or backward pass of one micro-batch on one pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_longrlvr.model.flops import layer_weights
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner import rates
from megatron_longrlvr.planner.hardware import Cluster
from megatron_longrlvr.planner.packing import Row
from megatron_longrlvr.planner.rates import Practice
from megatron_longrlvr.planner.workload import Recompute

_GIGA = 1e9
_TENSOR_COLLECTIVES_FORWARD = 4
# Backward gathers the inputs of both column-parallel products again, for their weights' gradients.
_TENSOR_COLLECTIVES_BACKWARD = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """Seconds of one stage for one micro-batch."""

    forward_s: float
    backward_s: float
    """What is recomputed included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A model on a layout on a cluster, used in some way."""

    spec: ModelSpec
    layout: ParallelLayout
    cluster: Cluster
    practice: Practice
    element_bytes: int = 2

    def stage_pass(self, row: Row, recompute: Recompute) -> Pass:
        """The slowest stage, which the others wait for: the last one, with the logits."""
        layers = self.spec.num_layers / self.layout.pp
        forward = layers * (self._layer_s(row, is_backward=False))
        backward = layers * (self._layer_s(row, is_backward=True))
        again = {
            "none": 0.0,
            "selective": layers * self._attention_s(row, rates.ATTENTION_FORWARD),
            "full": forward,
        }[recompute]
        logits = self._logits_s(row)
        # Logits are computed again in backward, which is another forward of them.
        return Pass(forward_s=forward + logits, backward_s=backward + again + 3 * logits)

    def message_s(self, row: Row) -> float:
        """Hidden states from one stage to the next."""
        size = row.tokens * self.spec.hidden_size * self.element_bytes / self.layout.cp
        share = self.layout.tp if self.layout.sequence_parallel else 1
        return size / share / self._rate(self.layout.world_size)

    def _layer_s(self, row: Row, *, is_backward: bool) -> float:
        times = 2 if is_backward else 1
        attention = 2.5 if is_backward else 1.0  # flash attention computes scores once more
        efficiency = rates.ATTENTION_BACKWARD if is_backward else rates.ATTENTION_FORWARD
        return (
            times * self._product_s(row)
            + attention * self._attention_s(row, efficiency)
            + times * self._elementwise_s(row)
            + self._tensor_s(row, is_backward=is_backward)
            + times * self._context_s(row)
            + times * self._expert_traffic_s(row)
        )

    def _product_s(self, row: Row) -> float:
        spec = self.spec
        layer = spec.num_layers - 1
        flops = 2 * layer_weights(spec, layer) * row.tokens / (self.layout.tp * self.layout.cp)
        rate = self.practice.gemm_flops(self.cluster.accelerator)
        if spec.has_experts(layer):
            rate *= rates.EXPERT_GEMM_FRAC
        return flops / rate

    def _attention_s(self, row: Row, efficiency: float) -> float:
        # In bf16 whatever the products are in.
        spec, layout = self.spec, self.layout
        flops = 4 * spec.num_heads * spec.head_dim * row.work.pairs / (layout.tp * layout.cp)
        return flops / (self.cluster.accelerator.bf16_tflops * 1e12 * efficiency)

    def _elementwise_s(self, row: Row) -> float:
        size = row.tokens * self.spec.hidden_size * self.element_bytes / self.layout.cp
        share = self.layout.tp if self.layout.sequence_parallel else 1
        rate = self.cluster.accelerator.memory_gb_per_s * _GIGA * rates.MEMORY
        return self.practice.elementwise_passes * size / share / rate

    def _tensor_s(self, row: Row, *, is_backward: bool) -> float:
        tp = self.layout.tp
        if tp == 1:
            return 0.0
        count = _TENSOR_COLLECTIVES_BACKWARD if is_backward else _TENSOR_COLLECTIVES_FORWARD
        size = row.tokens * self.spec.hidden_size * self.element_bytes / self.layout.cp
        one = size * (tp - 1) / tp / self._rate(tp) + rates.COLLECTIVE_S
        return count * one * self.practice.tensor_exposed

    def _context_s(self, row: Row) -> float:
        cp, tp = self.layout.cp, self.layout.tp
        if cp == 1:
            return 0.0
        width = 2 * self.spec.num_kv_heads * self.spec.head_dim / tp
        size = row.tokens * width * self.element_bytes * (cp - 1) / cp
        one = size / self._rate(tp * cp) + rates.COLLECTIVE_S
        return one * self.practice.context_exposed

    def _expert_traffic_s(self, row: Row) -> float:
        experts, ep = self.spec.experts, self.layout.ep
        if experts is None or ep == 1:
            return 0.0
        tokens = row.tokens / (self.layout.cp * self.layout.tp)
        size = tokens * experts.num_per_token * self.spec.hidden_size * self.element_bytes
        one = size * (ep - 1) / ep / self._rate(self.layout.tp * ep) + rates.COLLECTIVE_S
        return 2 * one  # to the experts and back

    def _logits_s(self, row: Row) -> float:
        spec, layout = self.spec, self.layout
        flops = 2 * spec.hidden_size * spec.vocab_size * row.work.predictions
        rate = self.cluster.accelerator.bf16_tflops * 1e12 * rates.GEMM_BF16
        return flops / (layout.tp * layout.cp) / rate

    def _rate(self, span: int) -> float:
        return self.cluster.link_gb_per_s(span) * _GIGA * rates.LINK


def pipeline_s(one: Pass, *, num_rows: int, layout: ParallelLayout, message_s: float) -> float:
    """Forward and backward of a data-parallel rank's micro-batches, the bubble included."""
    bubble = (layout.pp - 1) / layout.vpp
    work = one.forward_s + one.backward_s
    messages = 2 * message_s * (num_rows * layout.vpp + layout.pp - 1) if layout.pp > 1 else 0.0
    return (num_rows + bubble) * work + messages


def reduction_s(
    machine: Machine, dense: float, experts: float, *, gradient_bytes: int, weight_bytes: int
) -> float:
    """Gradients reduce-scattered and weights gathered over the ranks that hold the same.

    Args:
        machine: Layout and links.
        dense: Parameters of a rank outside experts.
        experts: Of its experts.
        gradient_bytes: Of one gradient.
        weight_bytes: Of one weight.
    """
    layout, total = machine.layout, 0.0
    # Either group reaches from one end of a stage's ranks to the other.
    span = layout.world_size // layout.pp
    for count, ranks in ((dense, layout.dp * layout.cp), (experts, layout.expert_dp)):
        if ranks > 1 and count:
            size = count * (gradient_bytes + weight_bytes) * (ranks - 1) / ranks
            total += size / (machine.cluster.link_gb_per_s(span) * _GIGA * rates.LINK)
    return total * machine.practice.data_exposed
