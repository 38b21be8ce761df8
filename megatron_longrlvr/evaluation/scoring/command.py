"""``longrlvr score``: score files of model outputs by several rules side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.evaluation.scoring.collect import MeasuredFile, measure_file
from megatron_longrlvr.evaluation.scoring.comparison import PairedComparison, compare
from megatron_longrlvr.evaluation.scoring.export import write_csv, write_json
from megatron_longrlvr.evaluation.scoring.formats import OutputFormat, mapped_format
from megatron_longrlvr.evaluation.scoring.summary import FileSummary, item_scores, summarize
from megatron_longrlvr.evaluation.scoring.table import print_comparison, print_summary

DEFAULT_SEED = 20_240


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions:
    """What ``longrlvr score`` was asked for."""

    paths: Sequence[Path]
    field_by_role: Mapping[str, str] = field(default_factory=dict)
    """Fields of a format that is not known; empty detects a known one."""

    has_comparison: bool = False
    """Compare the second file with the first, question by question."""

    json_path: Path | None = None
    csv_path: Path | None = None
    seed: int = DEFAULT_SEED
    """Of the bootstrap."""

    num_processes: int | None = None
    """As many as there are cores if None."""


def score_files(options: ScoreOptions, *, console: Console | None = None) -> list[FileSummary]:
    """Score, show and write.

    Raises:
        ConfigError: The field mapping is wrong, or a comparison was asked of other than two files.
        DataError: A file or record cannot be used; names it.
    """
    if options.has_comparison and len(options.paths) != 2:
        raise ConfigError(f"--compare takes two files, got {len(options.paths)}")
    # Wide even where the output is a pipe: a wrapped table is no longer readable.
    console = console or Console(highlight=False, soft_wrap=True, width=160)
    output_format = _named_format(options.field_by_role)
    measured = [
        measure_file(path, output_format=output_format, num_processes=options.num_processes)
        for path in options.paths
    ]
    summaries = [summarize(one, seed=options.seed) for one in measured]
    comparisons = _compare(measured, seed=options.seed) if options.has_comparison else ()
    for summary in summaries:
        print_summary(summary, console)
    if comparisons:
        first, second = (str(path) for path in options.paths)
        print_comparison(comparisons, first=first, second=second, console=console)
    if options.json_path is not None:
        write_json(options.json_path, summaries, comparisons)
    if options.csv_path is not None:
        write_csv(options.csv_path, summaries)
    return summaries


def parse_field_mapping(arguments: Sequence[str]) -> dict[str, str]:
    """Read ``ROLE=NAME`` arguments.

    Raises:
        ConfigError: An argument has another form, or names a role twice.
    """
    field_by_role: dict[str, str] = {}
    for argument in arguments:
        role, equals, name = argument.partition("=")
        if not (role and equals and name) or role in field_by_role:
            raise ConfigError(f"--field takes ROLE=NAME, each role once; got {argument!r}")
        field_by_role[role] = name
    return field_by_role


def _named_format(field_by_role: Mapping[str, str]) -> OutputFormat | None:
    if not field_by_role:
        return None
    try:
        return mapped_format(field_by_role)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _compare(measured: Sequence[MeasuredFile], *, seed: int) -> tuple[PairedComparison, ...]:
    first, second = (item_scores(one.measurements) for one in measured)
    try:
        return compare(first, second, seed=seed)
    except ValueError as error:
        raise DataError(f"{measured[0].path} and {measured[1].path}: {error}") from error
