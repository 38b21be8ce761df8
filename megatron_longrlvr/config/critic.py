"""The value model of ``algorithm.advantage=gae``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_longrlvr.config.policy import Dtype, OptimizerConfig
from megatron_longrlvr.config.section import Section


class CriticConfig(Section):
    """A model with a value head in place of the output layer, cut by the policy's layout.

    It shares the policy's ranks: no key gives it others. The length of its micro-batches, the
    sharing of prompts and the normaliser of its loss are those of the ``algorithm`` section, and it
    takes as many optimizer steps as the policy.
    """

    path: str | None = None
    """Hugging Face folder to start from: a language model, whose value head starts at 0, or a
    reward model with one label, whose head is taken over. Null starts from ``model.path``."""

    dtype: Dtype | None = None
    """Type of weights and activations; null for ``model.dtype``."""

    recompute: Literal["none", "selective", "full"] | None = None
    """Activations recomputed in backward; null for ``model.recompute``."""

    offload: bool = False
    """Keep weights and optimizer state in host memory but for the time in which the critic is used,
    once a step. On the CPU, where that is all the memory there is, nothing is moved."""

    optimizer: OptimizerConfig
    gamma: float = Field(default=1.0, ge=0, le=1)
    """Discount of a reward that comes a token later."""

    lam: float = Field(default=1.0, ge=0, le=1)
    """GAE's lambda. 1 takes from the critic a baseline and nothing more, so that its errors cost
    variance alone; below 1 they bias the advantages of early tokens, the more the longer the
    response is."""

    value_clip: float | None = Field(default=None, gt=0)
    """How far a value may move within a step before its gradient stops, in units of reward; null
    for no bound."""

    warmup_steps: int = Field(default=0, ge=0)
    """Training steps at the beginning in which the critic alone learns."""
