"""Choosing tokens from logits, with random numbers that belong to the sample; and what fits.

A sample's random numbers depend on its identity alone, not on the batch it is decoded in or
on the layout, so a resumed or a differently parallel run draws the same tokens.

Shapes: B samples, V vocabulary.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PromptBatch


def check_lengths(prompts: PromptBatch, params: SamplingParams, *, context_tokens: int) -> None:
    """Refuse prompts that leave too little of an engine's context for a whole response.

    Raises:
        RuntimeError: Names the prompt.
    """
    for prompt in prompts.prompts:
        num_tokens = len(prompt.token_ids)
        if num_tokens + params.max_response_tokens > context_tokens:
            raise RuntimeError(
                f"prompt {prompt.prompt_id} of step {prompts.step} has {num_tokens} tokens, which "
                f"with a response of up to {params.max_response_tokens} do not fit the engine's "
                f"context of {context_tokens}; prompts are to be at most data.max_prompt_tokens"
            )


def sample_key(*, seed: int, step: int, prompt_id: str, sample_index: int) -> int:
    """128 bits that seed the random numbers of one sample."""
    name = f"{seed}/{step}/{prompt_id}/{sample_index}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:16], "little")


def sample_uniforms(
    *, seed: int, step: int, prompt_id: str, sample_index: int, count: int
) -> NDArray[np.float64]:
    """[count] numbers in [0, 1) for the tokens of one sample."""
    key = sample_key(seed=seed, step=step, prompt_id=prompt_id, sample_index=sample_index)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def choose_tokens(
    logits: Tensor, uniforms: Tensor, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [B, V] float32, before temperature.
        uniforms: [B] float64 in [0, 1); not read at temperature 0.
        params: Temperature, top-k and top-p.

    Returns:
        [B] int64 tokens, and [B] float32 log-probabilities of them under the temperature (1 where
        the temperature is 0), before top-k and top-p cut the distribution.
    """
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)
        logprobs = logits.log_softmax(dim=-1)
    else:
        logprobs = (logits / params.temperature).log_softmax(dim=-1)
        tokens = _invert(_restrict(logprobs, params), uniforms)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def _restrict(logprobs: Tensor, params: SamplingParams) -> Tensor:
    """[B, V] float64 probabilities, 0 where top-k or top-p leave a token out; not normalised."""
    probs = logprobs.double().exp()
    if params.top_k > 0 and params.top_k < probs.size(1):
        smallest_kept = probs.topk(params.top_k, dim=-1).values[:, -1:]
        probs = torch.where(probs >= smallest_kept, probs, 0.0)
    if params.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        mass = ordered.cumsum(dim=-1)
        # A token stays while the mass before it is below top_p of what is left: the likeliest
        # one always does.
        is_kept = mass - ordered < params.top_p * mass[:, -1:]
        probs = torch.zeros_like(probs).scatter(1, order, torch.where(is_kept, ordered, 0.0))
    return probs


def _invert(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse of the cumulative distribution; never a token of probability 0."""
    cumulative = probs.cumsum(dim=-1)
    threshold = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    # Rounding can push the threshold to the total; the last token with any mass is meant then.
    last = (probs.size(1) - 1) - (probs.flip(1) > 0).int().argmax(dim=-1)
    return torch.minimum(tokens, last)
