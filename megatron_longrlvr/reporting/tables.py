"""Tables of a report: held-out scores, settings that differ, where the runs come from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.provenance import PROVENANCE_FILE
from megatron_longrlvr.reporting.run_record import Point, RunRecord

MISSING = "not measured"
NOT_SET = "not set"
NOT_RECORDED = "not recorded"

HELDOUT_SCORES = (
    (names.EVAL_CONTEXT_F_BETA_MEAN, names.EVAL_CONTEXT_F_BETA_STDERR, "{f_beta}"),
    (names.EVAL_CONTEXT_RECALL_MEAN, None, "Evidence recall"),
    (names.EVAL_CONTEXT_PRECISION_MEAN, None, "Citation precision"),
    (names.EVAL_ANSWER_MEAN, names.EVAL_ANSWER_STDERR, "Answer accuracy"),
    (names.EVAL_FORMAT_OK_FRAC, None, "Well-formed responses"),
)
"""Metric, metric of its standard error where there is one, and heading."""

_ALWAYS_DIFFERENT = ("run.name", "run.dir")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A score and the step it was measured at."""

    text: str
    step: int | None
    """None where nothing was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """First, last and best of one score in one run."""

    run_index: int
    label: str
    first: Cell
    last: Cell
    best: Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreBlock:
    """One score over all runs."""

    metric: str
    title: str
    rows: Sequence[ScoreRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingRow:
    """One dotted key and its value in each run."""

    key: str
    values: Sequence[str]


def f_beta_name(runs: Sequence[RunRecord]) -> str:
    """``F2`` where every run counts with beta 2; ``F-beta`` where they differ or do not say."""
    betas = {dict(flatten(run.config)).get("rewards.context.beta") for run in runs}
    beta = betas.pop() if len(betas) == 1 else None
    return f"F{beta:g}" if isinstance(beta, int | float) else "F-beta"


def describe_run(run: RunRecord) -> str:
    """Say in a line what was trained and how far."""
    settings = dict(flatten(run.config))
    said = [
        f"{word} {settings[key]}"
        for word, key in (("reward", "rewards.variant"), ("start", "model.path"))
        if key in settings
    ]
    planned = f" of {settings['trainer.steps']}" if "trainer.steps" in settings else ""
    done = "no metrics logged" if run.last_step is None else f"step {run.last_step}{planned}"
    return ", ".join([*said, done])


def score_blocks(runs: Sequence[RunRecord]) -> list[ScoreBlock]:
    """Held-out scores: first, last and best, each with its step.

    Best is the highest, and of equals the earliest.
    """
    return [
        ScoreBlock(
            metric=metric,
            title=title.format(f_beta=f_beta_name(runs)),
            rows=[
                _score_row(run, index, metric=metric, stderr=stderr)
                for index, run in enumerate(runs)
            ],
        )
        for metric, stderr, title in HELDOUT_SCORES
    ]


Z95 = 1.96
"""Standard errors either side of a mean within which 95 % of normal measurements fall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    half_width: float | None
    """None where no standard error was logged."""

    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRow:
    """The last measurement of one score in every run, and its distance from the first run's."""

    metric: str
    title: str
    values: Sequence[Interval | None]
    differences: Sequence[Interval | None]
    """None for the first run, and where one of the two was not measured."""


def comparison_rows(runs: Sequence[RunRecord]) -> list[ComparisonRow]:
    """Compare runs by their last held-out measurement.

    The interval of a difference adds the variances of both, as if each run had been asked prompts
    of its own. Runs that are asked the same prompts usually differ by less than that, so it is
    wider than it need be.
    """
    rows = []
    for metric, stderr, title in HELDOUT_SCORES:
        values = [_last_interval(run, metric, stderr) for run in runs]
        rows.append(
            ComparisonRow(
                metric=metric,
                title=title.format(f_beta=f_beta_name(runs)),
                values=values,
                differences=[
                    None if index == 0 else _difference(value, values[0])
                    for index, value in enumerate(values)
                ],
            )
        )
    return rows


def _last_interval(run: RunRecord, metric: str, stderr: str | None) -> Interval | None:
    measured = [point for point in run.points(metric) if point.value is not None]
    if not measured:
        return None
    step, value = measured[-1].step, measured[-1].value
    assert value is not None, "unmeasured points are left out"
    errors = {point.step: point.value for point in run.points(stderr)} if stderr else {}
    error = errors.get(step)
    return Interval(value=value, half_width=None if error is None else Z95 * error, step=step)


def _difference(value: Interval | None, base: Interval | None) -> Interval | None:
    if value is None or base is None:
        return None
    half_width = None
    if value.half_width is not None and base.half_width is not None:
        half_width = math.hypot(value.half_width, base.half_width)
    return Interval(value=value.value - base.value, half_width=half_width, step=value.step)


def differing_settings(runs: Sequence[RunRecord]) -> list[SettingRow]:
    """Keys of the configuration that the runs do not share; their names and places aside."""
    flat = [dict(flatten(run.config)) for run in runs]
    keys = sorted({key for config in flat for key in config} - set(_ALWAYS_DIFFERENT))
    rows = [
        SettingRow(
            key=key,
            values=[json.dumps(config[key]) if key in config else NOT_SET for config in flat],
        )
        for key in keys
    ]
    return [row for row in rows if len(set(row.values)) > 1]


def provenance_rows(runs: Sequence[RunRecord]) -> list[SettingRow]:
    """Where each run comes from, one fact a row."""
    facts = [_checked_facts(run) for run in runs]
    keys = list(dict.fromkeys(key for fact in facts for key in fact))
    return [
        SettingRow(key=key, values=[fact.get(key, NOT_RECORDED) for fact in facts]) for key in keys
    ]


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their values; lists and empty sections count as values."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _score_row(run: RunRecord, index: int, *, metric: str, stderr: str | None) -> ScoreRow:
    measured = [point for point in run.points(metric) if point.value is not None]
    errors = {point.step: point.value for point in run.points(stderr)} if stderr else {}

    def cell(point: Point | None) -> Cell:
        if point is None:
            return Cell(text=MISSING, step=None)
        error = errors.get(point.step)
        spread = "" if error is None else f" \N{PLUS-MINUS SIGN} {error:.3f}"
        return Cell(text=f"{point.value:.3f}{spread}", step=point.step)

    # max() keeps the first of equals.
    best = max(measured, key=lambda point: point.value or 0.0) if measured else None
    return ScoreRow(
        run_index=index,
        label=run.label,
        first=cell(measured[0] if measured else None),
        last=cell(measured[-1] if measured else None),
        best=cell(best),
    )


def _checked_facts(run: RunRecord) -> dict[str, str]:
    try:
        return _facts(run)
    except (KeyError, TypeError, AttributeError) as error:
        path = run.run_dir / PROVENANCE_FILE
        raise ValueError(f"{path} is not what a run writes: {error!r}") from error


def _facts(run: RunRecord) -> dict[str, str]:
    planned = dict(flatten(run.config)).get("trainer.steps", NOT_RECORDED)
    done = MISSING if run.last_step is None else str(run.last_step)
    facts = {"directory": str(run.run_dir), "steps logged / planned": f"{done} / {planned}"}
    if run.provenance is None:
        return facts
    given = run.provenance
    versions = [f"{name} {version}" for name, version in given.get("library_versions", {}).items()]
    return facts | {
        "code": _describe_code(given),
        "started (UTC)": str(given.get("started_utc", NOT_RECORDED)),
        "earlier starts": str(len(given.get("earlier_starts", []))),
        "machine": _describe_machine(given),
        "python": str(given.get("python_version", NOT_RECORDED)),
        "libraries": ", ".join(versions) or NOT_RECORDED,
        "command": " ".join(given.get("command", [])) or NOT_RECORDED,
    }


def _describe_code(given: Mapping[str, Any]) -> str:
    git = given.get("git")
    version = f"version {given.get('package_version', NOT_RECORDED)}"
    if git is None:
        return f"{version}, no checkout"
    changes = ", with uncommitted changes" if git["is_dirty"] else ""
    return f"{version}, commit {git['commit'][:12]}{changes}"


def _describe_machine(given: Mapping[str, Any]) -> str:
    gpus = given.get("gpu_names", [])
    devices = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
    return f"{given.get('host')}, {given.get('num_cpus')} CPUs, {devices or 'no GPU'}"
