"""Sections about the policy: which model, on which layout, at which precision, trained how."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from megatron_longrlvr.config.acceleration import Fp8Config, OffloadConfig
from megatron_longrlvr.config.section import Section

Dtype = Literal["fp32", "bf16"]
Architecture = Literal[
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
]
"""Model families, by the name that ``config.json`` gives them under ``architectures``."""

MIXTURES: frozenset[Architecture] = frozenset({"MixtralForCausalLM", "Qwen3MoeForCausalLM"})
"""Families whose layers have experts."""

AttentionKernel = Literal["torch", "flash_attention_3", "flash_attention_4", "transformer_engine"]
KeyExchange = Literal["all_gather", "p2p", "a2a"]


class NewExpertsConfig(Section):
    """Experts of a model that starts from random weights; every layer has them."""

    num_experts: int = Field(gt=0)
    num_experts_per_tok: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    """Of each expert."""


class NewModelConfig(Section):
    """Architecture of a model that starts from random weights."""

    architecture: Architecture
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    """Of layers without experts. Mixtral has none and must give that of its experts."""

    experts: NewExpertsConfig | None = None
    """Needed by the mixtures, and by no other architecture."""

    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    tie_word_embeddings: bool = False
    max_position_embeddings: int = Field(default=2048, gt=0)
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of the normal distribution that weight matrices are drawn from."""

    @model_validator(mode="after")
    def _has_experts_where_it_needs_them(self) -> NewModelConfig:
        if (self.architecture in MIXTURES) != (self.experts is not None):
            verb = "needs" if self.experts is None else "has no"
            raise ValueError(f"architecture={self.architecture} {verb} experts")
        return self


class RouterConfig(Section):
    """How tokens find their experts while the policy is trained; read for mixtures alone."""

    dtype: Literal["fp32", "fp64"] = "fp32"
    """Type of the router's logits and softmax, whatever ``model.dtype`` is."""

    balance_coefficient: float = Field(default=0.0, ge=0)
    """Weight, in every layer, of the loss that evens out how tokens fall on experts (Switch
    Transformer's: 1 where they fall evenly). 0.001 is common. With ``algorithm.proximal=behavior``,
    and in supervised training, it takes a forward pass of its own to see how they fall."""

    z_coefficient: float = Field(default=0.0, ge=0)
    """Weight, in every layer, of the loss that keeps the router's logits small (ST-MoE's)."""


class ComputeConfig(Section):
    """How a model is held in memory and computed."""

    dtype: Dtype = "bf16"
    """Type of weights and activations. Gradients and optimizer state are always fp32."""

    layers: Literal["local", "transformer_engine"] = "local"
    """What computes linear layers and norms: megatron-core's own modules and torch, or Transformer
    Engine's fused ones, which FP8 needs. Experts are then computed together."""

    attention: AttentionKernel = "torch"
    """Whose kernels compute the core attention. On GPU, torch's own are FlashAttention 2; versions
    3 (Hopper) and 4 (Hopper, Blackwell) are registered with torch where their packages are there.
    All of these serve samples that share a prompt. Transformer Engine's fused attention does not,
    and takes ``algorithm.shared_prompt=false`` and another ``rollout.engine`` than megatron."""

    key_exchange: KeyExchange = "all_gather"
    """How context-parallel ranks come by each other's keys and values: all of them at once, in a
    ring while the present ones are computed with (``p2p``), or by trading heads for tokens
    (``a2a``). The latter two are Transformer Engine's."""

    fp8: Fp8Config | None = None
    """Matrix products of the layers in FP8; null computes them in ``dtype``. The output layer, the
    router and the core attention stay as they are."""

    offload: OffloadConfig | None = None
    """Activations that wait in host memory for backward, on GPU; null keeps all on the device."""

    router: RouterConfig = RouterConfig()

    recompute: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in backward: none, those of the core attention, or whole layers."""

    logprob_chunk_tokens: int = Field(default=1024, gt=0)
    """Response tokens whose logits exist at the same time, in forward and in backward."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.fp8 is not None and (self.layers, self.dtype) != ("transformer_engine", "bf16"):
            raise ValueError(
                f"fp8.kind={self.fp8.kind} needs layers=transformer_engine and dtype=bf16, got "
                f"layers={self.layers} and dtype={self.dtype}"
            )
        if self.key_exchange != "all_gather" and self.attention != "transformer_engine":
            raise ValueError(
                f"key_exchange={self.key_exchange} needs attention=transformer_engine, got "
                f"attention={self.attention}"
            )
        if self.attention != "torch" and self.dtype != "bf16":
            raise ValueError(
                f"attention={self.attention} has kernels for dtype=bf16 alone, got "
                f"dtype={self.dtype}"
            )
        if self.offload is None:
            return self
        if self.layers != "transformer_engine":
            raise ValueError(
                f"offload.kind={self.offload.kind} is Transformer Engine's and needs "
                f"layers=transformer_engine, got layers={self.layers}"
            )
        if self.offload.kind == "layers" and self.recompute != "none":
            raise ValueError(
                f"offload.kind=layers keeps what recompute={self.recompute} computes again; use "
                "one of them, or offload.kind=modules"
            )
        return self


class ModelConfig(ComputeConfig):
    """The policy's starting point and how it is computed."""

    path: str
    """Hugging Face folder: config.json, tokenizer and safetensors. Relative paths are looked up in
    the working directory, then among the recipes shipped with the package."""


class SftModelConfig(ComputeConfig):
    """Where a supervised run starts: from a folder, or from random weights."""

    path: str | None = None
    """Hugging Face folder to go on from, as for a GRPO run."""

    new: NewModelConfig | None = None
    """Architecture to start with random weights, drawn from ``run.seed``; its tokenizer is the toy
    task's."""

    @model_validator(mode="after")
    def _has_one_start(self) -> SftModelConfig:
        if (self.path is None) == (self.new is None):
            raise ValueError("give one of model.path and model.new")
        return self


class LayoutConfig(Section):
    """Degrees of parallelism; the data-parallel degree is what remains of the world size."""

    tp: int = Field(default=1, gt=0)
    """Tensor-parallel degree."""

    pp: int = Field(default=1, gt=0)
    """Pipeline-parallel degree."""

    vpp: int = Field(default=1, gt=0)
    """Model chunks per pipeline rank (interleaved schedule above 1)."""

    cp: int = Field(default=1, gt=0)
    """Context-parallel degree."""

    ep: int = Field(default=1, gt=0)
    """Expert-parallel degree (mixture-of-experts models)."""

    sequence_parallel: bool = True
    """Split the activations between the tensor-parallel regions along the sequence. Takes effect
    when ``tp`` is above 1."""


class OptimizerConfig(Section):
    """AdamW with warm-up; states are sharded over data-parallel ranks."""

    lr: float = Field(gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of a cosine or linear decay."""

    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the rate rises; a training step takes
    ``algorithm.updates_per_step`` of them."""

    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    clip_grad: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""

    distributed: bool = True
    """Shard optimizer states over the data-parallel ranks."""

    implementation: Literal["torch", "apex", "transformer_engine"] = "torch"
    """Whose AdamW: torch's, or the fused one of either library, which takes one kernel for many
    parameters."""

    host_frac: float = Field(default=0.0, ge=0, le=1)
    """Share of the optimizer's fp32 weights and states that is kept, and updated, in host memory;
    needs ``distributed``."""
