"""Rotary position embedding on explicit positions.

The rotation is computed per token from its position, so packed samples, context-parallel slices,
shared prompts and cached decoding all go through the same three functions. Each head is rotated
in the half-split layout of the Hugging Face models: dimension i pairs with i + D/2.

Shapes: T tokens, N heads, D dimensions of a head.

Papers: RoFormer, arXiv:2104.09864 (there neighbouring dimensions are a pair; here i and i + D/2,
as the released weights expect); YaRN, arXiv:2309.00071.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from megatron_longrlvr.model.rope_spec import RopeSpec

# Keeps the ramp's slope finite when its two ends coincide; the reference implementation's value.
_MIN_RAMP_WIDTH = 0.001


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> tuple[Tensor, float]:
    """Compute the angle per position of each pair of dimensions.

    Returns:
        [D/2] float32 angles in radians per position, and the factor on cosines and sines.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    unscaled = 1.0 / (rope.theta**exponents)
    if rope.kind == "default":
        return unscaled, 1.0
    if rope.kind == "linear":
        return unscaled / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3_frequencies(unscaled, rope), 1.0
    return _yarn_frequencies(rope, head_dim), rope.attention_scaling


def rotation(
    positions: Tensor, inverse_frequencies: Tensor, attention_scaling: float
) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines that rotate tokens at given positions.

    Args:
        positions: [T] integers from 0, each within its own sample; any order.
        inverse_frequencies: [D/2] float32.
        attention_scaling: Factor on both results.

    Returns:
        Cosines and sines, each [T, D] float32 on the device of ``positions``; the second half
        repeats the first.
    """
    # float32 holds whole numbers exactly up to 2**24, far above any context length.
    angles = positions[:, None].float() * inverse_frequencies.to(positions.device)[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos() * attention_scaling, angles.sin() * attention_scaling


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate every head of every token.

    Args:
        x: [T, N, D] queries or keys.
        cos: [T, D] float32, from :func:`rotation`.
        sin: [T, D] float32.

    Returns:
        [T, N, D] in the dtype of ``x``; differentiable with respect to ``x``.
    """
    # float32: as bfloat16 the cosines of neighbouring positions coincide in slow dimensions.
    x_float = x.float()
    first, second = x_float.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x_float * cos[:, None, :] + turned * sin[:, None, :]).to(x.dtype)


def _llama3_frequencies(unscaled: Tensor, rope: RopeSpec) -> Tensor:
    """Stretch long wavelengths by the factor, keep short ones, blend in between."""
    original = rope.original_max_position_embeddings
    wavelengths = 2 * math.pi / unscaled
    is_long = wavelengths > original / rope.low_freq_factor
    is_short = wavelengths < original / rope.high_freq_factor
    share_kept = (original / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (1 - share_kept) * unscaled / rope.factor + share_kept * unscaled
    scaled = torch.where(is_long, unscaled / rope.factor, blended)
    return torch.where(is_short, unscaled, scaled)


def _yarn_frequencies(rope: RopeSpec, head_dim: int) -> Tensor:
    """Keep the pairs that turn often in the original context, stretch those that hardly turn."""
    powers = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    kept, stretched = 1.0 / powers, 1.0 / (rope.factor * powers)
    low = _dimension_of_turns(rope.beta_fast, rope, head_dim)
    high = _dimension_of_turns(rope.beta_slow, rope, head_dim)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += _MIN_RAMP_WIDTH
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    share_kept = 1 - ramp.clamp(0, 1)
    return stretched * (1 - share_kept) + kept * share_kept


def _dimension_of_turns(num_turns: float, rope: RopeSpec, head_dim: int) -> float:
    """Return the (fractional) pair that turns so often within the original context."""
    wavelength = rope.original_max_position_embeddings / (num_turns * 2 * math.pi)
    return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))
