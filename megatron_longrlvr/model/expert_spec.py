"""What the experts of a mixture are, read from and written to ``config.json`` settings.

A token goes to the experts with the largest router logits; their outputs are added up with the
softmax of the logits as weights. The softmax is over all experts, or over the chosen ones
(``norm_topk_prob``, always so in Mixtral: the same as dividing by the sum of the chosen weights).
No loss that balances the load of the experts is added in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.config.policy import Architecture, NewExpertsConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.rope_spec import whole_number


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertSpec:
    """Experts of a mixture, the same in every layer that has them."""

    num_experts: int
    num_per_token: int
    intermediate_size: int
    """Of one expert."""

    normalize_weights: bool
    """Whether the weights of the chosen experts sum to 1."""

    dense_layers: tuple[int, ...] = ()
    """Layers with a plain MLP instead, ascending, from 0."""

    def __post_init__(self) -> None:
        if self.num_per_token > self.num_experts:
            raise ConfigError(
                f"num_experts_per_tok={self.num_per_token} is above num_experts={self.num_experts}"
            )
        if self.num_per_token == 1 and self.normalize_weights:
            raise ConfigError(
                "num_experts_per_tok=1 with norm_topk_prob=true is not supported: the weight "
                "is always 1, so the router would not learn"
            )


def new_experts(new: NewExpertsConfig) -> ExpertSpec:
    """Describe the experts of a model that a recipe starts from random weights."""
    return ExpertSpec(
        num_experts=new.num_experts,
        num_per_token=new.num_experts_per_tok,
        intermediate_size=new.intermediate_size,
        normalize_weights=True,
    )


def read_experts(
    architecture: Architecture, config: Mapping[str, Any], *, num_layers: int
) -> ExpertSpec | None:
    """Read the experts of a ``config.json``; None for a family without.

    Raises:
        ConfigError: A number is missing or out of range, or a setting is not supported; names
            the key.
    """
    if architecture == "MixtralForCausalLM":
        if config.get("router_jitter_noise"):
            raise ConfigError(
                f"router_jitter_noise={config['router_jitter_noise']} is not supported; use 0"
            )
        return ExpertSpec(
            num_experts=whole_number(config, "num_local_experts"),
            num_per_token=whole_number(config, "num_experts_per_tok"),
            intermediate_size=whole_number(config, "intermediate_size"),
            normalize_weights=True,
        )
    if architecture == "Qwen3MoeForCausalLM":
        return ExpertSpec(
            num_experts=_num_experts(config),
            num_per_token=whole_number(config, "num_experts_per_tok"),
            intermediate_size=whole_number(config, "moe_intermediate_size"),
            normalize_weights=bool(config.get("norm_topk_prob", False)),
            dense_layers=_dense_layers(config, num_layers),
        )
    return None


def expert_settings(architecture: Architecture, experts: ExpertSpec) -> dict[str, Any]:
    """Write the settings of the experts for ``config.json``."""
    settings: dict[str, Any] = {
        # transformers 5 has one name for both families, other readers have one for each.
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.num_per_token,
        "output_router_logits": False,
    }
    if architecture == "MixtralForCausalLM":
        return settings
    return {
        **settings,
        "num_experts": experts.num_experts,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalize_weights,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(experts.dense_layers),
    }


def _num_experts(config: Mapping[str, Any]) -> int:
    """Read what transformers 4 calls ``num_experts`` and transformers 5 ``num_local_experts``."""
    counts = {
        whole_number(config, key) for key in ("num_experts", "num_local_experts") if key in config
    }
    if len(counts) > 1:
        raise ConfigError(
            f"num_experts={config['num_experts']} disagrees with "
            f"num_local_experts={config['num_local_experts']}; remove one"
        )
    return counts.pop() if counts else whole_number(config, "num_experts")


def _dense_layers(config: Mapping[str, Any], num_layers: int) -> tuple[int, ...]:
    plain = set(config.get("mlp_only_layers") or ())
    step = whole_number(config, "decoder_sparse_step") if "decoder_sparse_step" in config else 1
    dense = tuple(i for i in range(num_layers) if i in plain or (i + 1) % step)
    if len(dense) == num_layers:
        raise ConfigError(
            f"mlp_only_layers={sorted(plain)} and decoder_sparse_step={step} leave no layer "
            "with experts"
        )
    return dense
