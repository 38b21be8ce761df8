"""What a model's rotary position embedding is, read from and written to ``config.json`` settings.

transformers 4 writes ``rope_theta`` beside ``rope_scaling``; transformers 5 writes both into
``rope_parameters``. Either is read, and a file that holds both must mean the same by them.
A kind that is computed from the length at hand (dynamic, longrope) is refused: the angles of a
token would depend on what it is packed with.

Paper: YaRN, arXiv:2309.00071 (the ramp over dimensions, the attention temperature).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from megatron_longrlvr.errors import ConfigError

RopeKind = Literal["default", "linear", "llama3", "yarn"]

# What the paper recommends and transformers assumes.
_DEFAULT_BETA_FAST = 32.0
_DEFAULT_BETA_SLOW = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSpec:
    """Rotary position embedding. A number that the kind does not use keeps its default."""

    kind: RopeKind
    theta: float
    """Base of the geometric series of wavelengths."""

    factor: float = 1.0
    """How many times longer the context is than the one the base model learned."""

    original_max_position_embeddings: int = 0
    """llama3, yarn: positions of the base model, before scaling."""

    low_freq_factor: float = 1.0
    """llama3: wavelengths above ``original / low`` are stretched by the whole factor."""

    high_freq_factor: float = 1.0
    """llama3: wavelengths below ``original / high`` stay as they are."""

    beta_fast: float = _DEFAULT_BETA_FAST
    """yarn: turns within the original context above which a frequency is kept."""

    beta_slow: float = _DEFAULT_BETA_SLOW
    """yarn: turns within the original context below which a frequency is divided by the factor."""

    truncate: bool = True
    """yarn: round the bounds of the ramp to whole dimensions."""

    attention_scaling: float = 1.0
    """yarn: factor on cosines and sines; multiplies attention scores by its square."""


def read_rope(config: Mapping[str, Any], *, default_theta: float = 10_000.0) -> RopeSpec:
    """Read the rotary embedding of a ``config.json``.

    Args:
        config: Of the whole model.
        default_theta: What the model's family has where the file leaves it out.

    Raises:
        ConfigError: A kind or combination that is not supported, a number missing, or two
            spellings that disagree; names the key.
    """
    spellings = []
    if config.get("rope_theta") is not None or config.get("rope_scaling"):
        spellings.append(config.get("rope_scaling") or {})
    if config.get("rope_parameters"):
        spellings.append(config["rope_parameters"])
    # A spelling without theta means the one beside it.
    theta = float(config.get("rope_theta") or default_theta)
    ropes = {
        _rope_from_settings(settings, config, default_theta=theta) for settings in spellings or [{}]
    }
    if len(ropes) > 1:
        raise ConfigError(
            "rope_theta and rope_scaling disagree with rope_parameters; remove one spelling"
        )
    return ropes.pop()


def rope_scaling(rope: RopeSpec) -> dict[str, Any] | None:
    """Write the settings of a scaled rope, without theta; None for the default kind."""
    if rope.kind == "default":
        return None
    scaling: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "linear":
        return scaling
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings
    if rope.kind == "llama3":
        scaling["low_freq_factor"] = rope.low_freq_factor
        scaling["high_freq_factor"] = rope.high_freq_factor
        return scaling
    scaling["beta_fast"] = rope.beta_fast
    scaling["beta_slow"] = rope.beta_slow
    # Left out where they are the default, because not every reader knows them.
    if not rope.truncate:
        scaling["truncate"] = False
    if rope.attention_scaling != _yarn_attention_scaling(rope.factor):
        scaling["attention_factor"] = rope.attention_scaling
    return scaling


def whole_number(settings: Mapping[str, Any], key: str) -> int:
    """Read a count that ``config.json`` must state."""
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{key} must be a whole number above 0, got {value!r}")
    return value


def _rope_from_settings(
    settings: Mapping[str, Any], config: Mapping[str, Any], *, default_theta: float
) -> RopeSpec:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in get_args(RopeKind) or any(isinstance(v, dict) for v in settings.values()):
        raise ConfigError(
            f"rope settings {dict(settings)} are not supported; "
            f"rope_type must be one of {', '.join(get_args(RopeKind))}, the same in every layer"
        )
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(
            f"partial_rotary_factor={settings['partial_rotary_factor']} is not supported; use 1.0"
        )
    theta = float(settings.get("rope_theta") or default_theta)
    if kind == "default":
        return RopeSpec(kind="default", theta=theta)
    if kind == "linear":
        return RopeSpec(kind="linear", theta=theta, factor=_number(settings, "factor"))
    original = int(
        config.get("original_max_position_embeddings")
        or settings.get("original_max_position_embeddings")
        or whole_number(config, "max_position_embeddings")
    )
    if kind == "llama3":
        return RopeSpec(
            kind="llama3",
            theta=theta,
            factor=_number(settings, "factor"),
            original_max_position_embeddings=original,
            low_freq_factor=_number(settings, "low_freq_factor"),
            high_freq_factor=_number(settings, "high_freq_factor"),
        )
    return _read_yarn(settings, config, theta=theta, original=original)


def _read_yarn(
    settings: Mapping[str, Any], config: Mapping[str, Any], *, theta: float, original: int
) -> RopeSpec:
    if settings.get("factor") is None:
        factor = whole_number(config, "max_position_embeddings") / original
    else:
        factor = _number(settings, "factor")
    scaling = settings.get("attention_factor")
    if scaling is None:
        scaling = _yarn_attention_scaling(
            factor, settings.get("mscale") or 0.0, settings.get("mscale_all_dim") or 0.0
        )
    return RopeSpec(
        kind="yarn",
        theta=theta,
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=float(settings.get("beta_fast") or _DEFAULT_BETA_FAST),
        beta_slow=float(settings.get("beta_slow") or _DEFAULT_BETA_SLOW),
        truncate=bool(settings.get("truncate", True)),
        attention_scaling=float(scaling),
    )


def _yarn_attention_scaling(
    factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0
) -> float:
    """Compute the factor on cosines and sines where the config states none."""

    def magnitude(weight: float) -> float:
        # 0.1 ln(factor) + 1: the paper's fit.
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return magnitude(mscale) / magnitude(mscale_all_dim)
    return magnitude(1.0)


def _number(settings: Mapping[str, Any], key: str) -> float:
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"{key} must be a number above 0, got {value!r}")
    return float(value)
