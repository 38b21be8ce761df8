"""Why engine and learner disagree, from what each of them says about the same tokens again.

The engine is asked a second time, with an empty cache and before any temperature ("afresh"), and
its weights are read back:

    weights differ                                     stale weights
    afresh it disagrees, on the first token less       positions: the rotation is scaled otherwise
    afresh it disagrees, on every token alike          precision
    afresh it agrees, and sampled as the learner would at another temperature    temperature
    afresh it agrees, and no temperature explains it   stale cache: keys and values of old weights

The first token tells the rotation from the rest: it is predicted from a single token at position
0, where every rotation is the identity.

Shapes: N response tokens of a sample, L tokens of prompt and response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

# Of the gap to be explained: what is left where an explanation holds.
_EXPLAINED = 0.2


class Cause(StrEnum):
    """What keeps engine and learner apart."""

    STALE_WEIGHTS = "stale weights"
    STALE_CACHE = "stale cache"
    TEMPERATURE = "temperature"
    POSITIONS = "positions"
    PRECISION = "precision"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleEvidence:
    """Log-probabilities of one sample's tokens."""

    behavior: Tensor
    """[N], as the engine sampled."""

    learned: Mapping[float, Tensor]
    """[N] each, the learner's by temperature; that of the run is among them."""

    engine_afresh: Tensor
    """[L - 1] of every token but the first, at temperature 1, from an empty cache."""

    learner_afresh: Tensor
    """[L - 1], the same from the learner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A cause and what points to it."""

    cause: Cause
    reason: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.reason}"


def find_cause(
    samples: Sequence[SampleEvidence], *, temperature: float, differing_tensors: Sequence[str]
) -> Finding:
    """Name the one cause that explains most of the gap.

    Args:
        samples: At least one.
        temperature: Under which the run samples.
        differing_tensors: Of the engine, those that differ from the learner's.
    """
    if differing_tensors:
        shown = ", ".join(differing_tensors[:3])
        return Finding(
            cause=Cause.STALE_WEIGHTS,
            reason=f"{len(differing_tensors)} tensors of the engine differ ({shown})",
        )
    gap = _mean([one.behavior - one.learned[temperature] for one in samples])
    afresh = _mean([one.engine_afresh - one.learner_afresh for one in samples])
    if afresh > _EXPLAINED * gap:
        return _finding_afresh(samples, afresh)
    by_temperature = {
        other: _mean([one.behavior - one.learned[other] for one in samples])
        for other in samples[0].learned
    }
    best = min(by_temperature, key=lambda other: by_temperature[other])
    if best != temperature and by_temperature[best] < _EXPLAINED * gap:
        return Finding(
            cause=Cause.TEMPERATURE,
            reason=f"the engine sampled at about {best:g}, the learner computes at {temperature:g}",
        )
    return Finding(
        cause=Cause.STALE_CACHE,
        reason=f"{gap:.2g} nats off, but {afresh:.2g} when asked again with an empty cache",
    )


def _finding_afresh(samples: Sequence[SampleEvidence], afresh: float) -> Finding:
    first = _mean([(one.engine_afresh - one.learner_afresh)[:1] for one in samples])
    if first < _EXPLAINED * afresh:
        return Finding(
            cause=Cause.POSITIONS,
            reason=f"{first:.2g} nats off on first tokens and {afresh:.2g} on all: the rotation of "
            "positions differs",
        )
    return Finding(
        cause=Cause.PRECISION,
        reason=f"{first:.2g} nats off on first tokens and {afresh:.2g} on all, with the same "
        "weights: the engine computes in another precision",
    )


def _mean(differences: Sequence[Tensor]) -> float:
    return float(torch.cat(list(differences)).abs().mean())
