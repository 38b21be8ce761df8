"""All tables and curves of the study, as one record.

The policy spreads a budget of four citations over the document, p = 4 / N, unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from megatron_longrlvr.theory.closed_form import all_others_cited, gradient, signal_share
from megatron_longrlvr.theory.learning import LearningCurve, Training, learn
from megatron_longrlvr.theory.model import PAYMENTS, Payment, Setting
from megatron_longrlvr.theory.monte_carlo import estimate_gradient

BUDGET = 4
GROUP_SIZE = 8
COUPLING = 3.0
CHUNK_COUNTS = (16, 32, 64, 128, 256)
EVIDENCE_COUNTS = (1, 2, 3, 4, 6, 8)
OUTCOME, ETA_ZERO, LONGRLVR, CONTEXT = PAYMENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientRow:
    """One gradient, by formula and from samples."""

    case: str
    payment: str
    num_chunks: int
    num_evidence: int
    closed_form: float
    sampled: float
    stderr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingRow:
    """What one payment offers at one size, by formula."""

    case: str
    payment: str
    num_chunks: int
    num_evidence: int
    gradient: float
    all_others_cited: float
    signal_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRow:
    """One learning curve."""

    name: str
    payment: str
    num_evidence: int
    curve: LearningCurve


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Everything that was computed."""

    gradients: Sequence[GradientRow]
    scaling: Sequence[ScalingRow]
    curves: Sequence[CurveRow]
    num_samples: int
    seed: int


def setting_of(num_chunks: int, num_evidence: int) -> Setting:
    """A document on which the policy spends its budget blindly."""
    return Setting(
        num_chunks=num_chunks, num_evidence=num_evidence, cite_probability=BUDGET / num_chunks
    )


def cases_of(setting: Setting) -> dict[str, Setting]:
    """A setting and its two controls."""
    return {
        "all or nothing": setting,
        "partial credit": replace(setting, has_partial_credit=True),
        "coupled citing": replace(setting, coupling=COUPLING),
    }


def run_study(*, num_samples: int = 400_000, num_steps: int = 400, seed: int = 0) -> Study:
    """Compute all tables and curves; half a minute with the defaults."""
    return Study(
        gradients=_compare_gradients(num_samples=num_samples, seed=seed),
        scaling=_scaling(),
        curves=_learning_curves(Training(num_steps=num_steps, seed=seed, group_size=GROUP_SIZE)),
        num_samples=num_samples,
        seed=seed,
    )


def evidence_slope(study: Study, payment: Payment, *, num_chunks: int = 64) -> float:
    """Change of the log gradient for one more evidence chunk, between 1 and the most."""
    rows = [
        row
        for row in study.scaling
        if (row.payment, row.num_chunks, row.case) == (payment.name, num_chunks, "all or nothing")
    ]
    first, last = rows[0], rows[-1]
    change = math.log(last.gradient) - math.log(first.gradient)
    return change / (last.num_evidence - first.num_evidence)


def study_record(study: Study) -> dict[str, Any]:
    """Everything as JSON; of each curve every tenth step."""
    return {
        "budget": BUDGET,
        "group_size": GROUP_SIZE,
        "coupling": COUPLING,
        "num_samples": study.num_samples,
        "seed": study.seed,
        "log_gradient_per_evidence_chunk": {
            payment.name: evidence_slope(study, payment) for payment in PAYMENTS
        },
        "gradients": [asdict(row) for row in study.gradients],
        "scaling": [asdict(row) for row in study.scaling],
        "curves": [
            {
                "name": row.name,
                "payment": row.payment,
                "num_evidence": row.num_evidence,
                **{
                    key: [round(value, 4) for value in [*values[::10], values[-1]]]
                    for key, values in asdict(row.curve).items()
                },
            }
            for row in study.curves
        ],
    }


def _compare_gradients(*, num_samples: int, seed: int) -> list[GradientRow]:
    rows = []
    # Sizes at which sampling sees right answers at all.
    for num_chunks, num_evidence in ((16, 1), (16, 2), (16, 4), (64, 1), (64, 2)):
        for case, setting in cases_of(setting_of(num_chunks, num_evidence)).items():
            for payment in PAYMENTS:
                sampled = estimate_gradient(setting, payment, num_samples=num_samples, seed=seed)
                rows.append(
                    GradientRow(
                        case=case,
                        payment=payment.name,
                        num_chunks=num_chunks,
                        num_evidence=num_evidence,
                        closed_form=gradient(setting, payment),
                        sampled=sampled.mean,
                        stderr=sampled.stderr,
                    )
                )
    return rows


def _scaling() -> list[ScalingRow]:
    sizes = [(64, num_evidence) for num_evidence in EVIDENCE_COUNTS]
    sizes += [(num_chunks, 4) for num_chunks in CHUNK_COUNTS if num_chunks != 64]
    return [
        ScalingRow(
            case=case,
            payment=payment.name,
            num_chunks=num_chunks,
            num_evidence=num_evidence,
            gradient=gradient(setting, payment),
            all_others_cited=all_others_cited(setting),
            signal_share=signal_share(setting, payment, group_size=GROUP_SIZE),
        )
        for num_chunks, num_evidence in sizes
        for case, setting in cases_of(setting_of(num_chunks, num_evidence)).items()
        for payment in PAYMENTS
    ]


def _learning_curves(training: Training) -> list[CurveRow]:
    plain = setting_of(64, 4)
    runs = [(payment.name, payment, plain) for payment in PAYMENTS]
    runs += [(f"outcome only, g = {g}", OUTCOME, setting_of(64, g)) for g in (1, 2, 3)]
    runs += [(f"outcome only, {case}", OUTCOME, s) for case, s in list(cases_of(plain).items())[1:]]
    return [
        CurveRow(
            name=name,
            payment=payment.name,
            num_evidence=setting.num_evidence,
            curve=learn(setting, payment, training),
        )
        for name, payment, setting in runs
    ]
