"""What share of a peak is reached: the constants of the time model.

Those of products and attention were chosen with published throughput in view, one value for all
devices and layouts; ``tests/records/published_throughput.json`` lists every row and its error. The
others are assumed, as they say.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_longrlvr.planner.hardware import Accelerator

GEMM_BF16 = 0.58
"""Share of the bf16 peak in the matrix products of whole training runs."""

GEMM_FP8 = 0.5
"""Of the FP8 peak, casts and scaling included."""

ATTENTION_FORWARD = 0.45
"""Share of the bf16 peak in causal attention over long sequences."""

ATTENTION_BACKWARD = 0.36

EXPERT_GEMM_FRAC = 0.12
"""Of what a dense product reaches, in the small products of many experts, with their routing."""

ELEMENTWISE_PASSES = 24.0
"""Times that a layer reads or writes [T, H] in memory outside of products, forward: norms,
residuals, rotation, activation, casts; unfused as here. Backward counts twice."""

ELEMENTWISE_PASSES_FUSED = 12.0

MEMORY = 0.8
"""Share of the memory rate that streaming kernels reach."""

LINK = 0.75
"""Share of a link's rate that large NCCL collectives reach."""

COLLECTIVE_S = 20e-6
"""A collective of a few bytes."""

KERNEL_LAYER_S = 6e-6
"""One decoding step of one layer beyond its memory traffic, from a CUDA graph (assumed)."""

KERNEL_LAYER_EAGER_S = 60e-6
"""The same, launched from Python (assumed)."""

DECODE_MEMORY = 0.65
"""Share of the memory rate in decoding: weights and cached keys and values."""

PREFILL = 0.9
"""Of the rates of training, in the forward pass of an engine (no graph is kept)."""

FILE_GB_PER_S = 1.0
"""Of a node's writes to a parallel file system (assumed; look at yours)."""

JUDGE_S = 2.0
"""A verdict (assumed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Practice:
    """How a training framework uses the hardware."""

    is_fp8: bool = False
    is_fused: bool = False
    """Fused norms, rotation and activation (Transformer Engine)."""

    tensor_exposed: float = 1.0
    """Share of the tensor-parallel traffic that nothing hides."""

    context_exposed: float = 1.0
    data_exposed: float = 1.0

    def gemm_flops(self, device: Accelerator) -> float:
        """Matrix products, in FLOP/s of one device."""
        if self.is_fp8 and device.fp8_tflops is not None:
            return device.fp8_tflops * 1e12 * GEMM_FP8
        return device.bf16_tflops * 1e12 * GEMM_BF16

    @property
    def elementwise_passes(self) -> float:
        return ELEMENTWISE_PASSES_FUSED if self.is_fused else ELEMENTWISE_PASSES


OURS = Practice()
"""megatron-core's local layers with this package's attention: nothing is overlapped or fused."""

OVERLAPPED = Practice(is_fused=True, tensor_exposed=0.3, context_exposed=0.3, data_exposed=0.2)
"""Transformer Engine with user buffers, ring attention and bucketed reduction (assumed shares)."""
