"""Settings of the learner that take Transformer Engine or a GPU: FP8 and offloading."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from megatron_longrlvr.config.section import Section

Fp8Format = Literal["hybrid", "e4m3"]
"""``hybrid`` holds gradients as e5m2, which reaches further, and all else as e4m3."""


class _Fp8Section(Section):
    format: Fp8Format = "hybrid"
    parameters: bool = False
    """Hold the weights of the linear layers in FP8 alone; the optimizer keeps fp32 ones."""


class _Fp8WithBf16Layers(_Fp8Section):
    bf16_layers_at_start: int = Field(default=0, ge=0)
    """First layers that stay in bf16."""

    bf16_layers_at_end: int = Field(default=0, ge=0)
    """Last layers that stay in bf16."""


class Fp8Delayed(_Fp8Section):
    """One scale per tensor, from the largest values of the steps before."""

    kind: Literal["delayed"]
    margin: int = Field(default=0, ge=0)
    """Powers of two that the scale stays below what the history allows."""

    history_steps: int = Field(default=1024, gt=0)
    """Length of the history."""

    history: Literal["max", "most_recent"] = "max"
    """Which of its entries sets the scale."""


class Fp8Current(_Fp8WithBf16Layers):
    """One scale per tensor, from its own largest value."""

    kind: Literal["current"]


class Fp8Blockwise(_Fp8WithBf16Layers):
    """One scale per 128 numbers of an activation and per 128 x 128 of a weight."""

    kind: Literal["blockwise"]
    format: Fp8Format = "e4m3"


class Mxfp8(_Fp8WithBf16Layers):
    """One power of two per 32 numbers, in hardware; from Blackwell on."""

    kind: Literal["mxfp8"]
    format: Fp8Format = "e4m3"


Fp8Config = Annotated[
    Fp8Delayed | Fp8Current | Fp8Blockwise | Mxfp8,
    Field(discriminator="kind"),
]


class LayerOffload(Section):
    """Activations of whole layers wait in host memory for backward."""

    kind: Literal["layers"]
    num_layers: int = Field(gt=0)
    """How many; at least one layer of the model must stay."""


OffloadedModule = Literal[
    "attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", "expert_fc1", "moe_act"
]


class ModuleOffload(Section):
    """Inputs of chosen parts of every layer wait in host memory for backward."""

    kind: Literal["modules"]
    modules: list[OffloadedModule] = Field(min_length=1)
    """In megatron-core's words. ``attn_proj`` needs ``core_attn``, whose output is its input."""

    @model_validator(mode="after")
    def _keeps_what_backward_reads(self) -> Self:
        if "attn_proj" in self.modules and "core_attn" not in self.modules:
            raise ValueError("modules holds attn_proj without core_attn; add core_attn")
        return self


OffloadConfig = Annotated[LayerOffload | ModuleOffload, Field(discriminator="kind")]
