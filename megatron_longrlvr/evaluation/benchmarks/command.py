"""``longrlvr evaluate TARGET --benchmark FILE``: ask a benchmark, then report its scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from megatron_longrlvr.config.benchmark import (
    BenchmarkRunConfig,
    LongBenchV2Config,
    LongReasonConfig,
)
from megatron_longrlvr.config.checks import check_engine_size
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.evaluation.benchmarks.longbench_v2 import longbench_questions
from megatron_longrlvr.evaluation.benchmarks.longreason import longreason_questions
from megatron_longrlvr.evaluation.benchmarks.outputs import OutputsFile
from megatron_longrlvr.evaluation.benchmarks.prompts import PromptWriter
from megatron_longrlvr.evaluation.benchmarks.question import Question
from megatron_longrlvr.evaluation.benchmarks.ruler_qa import TokenCounts, ruler_questions
from megatron_longrlvr.evaluation.benchmarks.runner import ask_questions
from megatron_longrlvr.evaluation.scoring.command import ScoreOptions, score_files
from megatron_longrlvr.evaluation.target import load_target, read_target
from megatron_longrlvr.parallel.groups import ProcessGroups, launched_world_size
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from megatron_longrlvr.trainer.engines import build_engine
from megatron_longrlvr.trainer.model_folder import model_folder
from megatron_longrlvr.trainer.session import on_first_rank, process_groups


def evaluate_benchmark(
    target: str, overrides: Sequence[str], *, benchmark: str, folder: Path, json_path: Path | None
) -> None:
    """Ask the policy of a recipe or run; called on every rank.

    The same command goes on where an earlier one stopped.

    Raises:
        ConfigError: Settings are wrong, or ``folder`` belongs to others.
        DataError: A benchmark file is wrong.
        CheckpointError: The run has no whole checkpoint.
    """
    found = read_target(target, overrides)
    run = load_config(benchmark, (), BenchmarkRunConfig)
    config = _with_lengths(found.config, run)
    layout = ParallelLayout.from_config(config.layout, launched_world_size())
    check_engine_size(config, layout)
    with process_groups(layout, seed=config.run.seed) as groups:
        _ask(config, run, groups, run_dir=found.run_dir, folder=folder)
        if groups.rank > 0:
            return
    outputs = OutputsFile(folder=folder, samples_per_question=run.samples_per_question)
    score_files(ScoreOptions(paths=[outputs.path], json_path=json_path))


def read_questions(
    config: BenchmarkRunConfig, writer: PromptWriter, *, done: Set[str] = frozenset()
) -> list[Question]:
    """Questions of the benchmark that the configuration names, without those that are done.

    Raises:
        ConfigError: No file is named, or a prompt may become longer than allowed.
        DataError: A file is wrong, or two questions share an id.
    """
    questions = list(_iter_questions(config, writer, done))
    place_by_id: dict[str, str] = {}
    for one in questions:
        earlier = place_by_id.setdefault(one.prompt_id, one.place)
        if earlier != one.place:
            raise DataError(f"{one.place}: id {one.prompt_id!r} is already taken by {earlier}")
    return [one for one in questions if one.prompt_id not in done]


def _with_lengths(config: TrainConfig, run: BenchmarkRunConfig) -> TrainConfig:
    """The recipe with the benchmark's lengths, by which model and engine are built and checked."""
    data = config.data.model_copy(update={"max_prompt_tokens": run.max_prompt_tokens})
    rollout = config.rollout.model_copy(update={"max_response_tokens": run.max_response_tokens})
    return config.model_copy(update={"data": data, "rollout": rollout})


def _settings(config: TrainConfig, run: BenchmarkRunConfig, *, policy: str) -> dict[str, object]:
    """All that outputs depend on, so that those of other settings are not mixed with them."""
    return {
        "policy": policy,
        "dtype": config.model.dtype,
        "engine": config.rollout.engine,
        "stop": list(config.rollout.stop),
        **run.model_dump(mode="json"),
    }


def _iter_questions(
    config: BenchmarkRunConfig, writer: PromptWriter, done: Set[str]
) -> Iterable[Question]:
    source = config.source
    if isinstance(source, LongBenchV2Config):
        return longbench_questions(source)
    if isinstance(source, LongReasonConfig):
        return longreason_questions(source)
    longest = max(source.lengths) - config.max_response_tokens
    if longest > config.max_prompt_tokens:
        raise ConfigError(
            f"source.lengths up to {max(source.lengths)} make prompts of {longest} tokens, above "
            f"max_prompt_tokens={config.max_prompt_tokens}"
        )
    return ruler_questions(
        source,
        counts=TokenCounts(of_prompt=writer.count_tokens, of_text=writer.count_text),
        max_response_tokens=config.max_response_tokens,
        skip=done,
    )


def _ask(
    config: TrainConfig,
    run: BenchmarkRunConfig,
    groups: ProcessGroups,
    *,
    run_dir: Path | None,
    folder: Path,
) -> None:
    tokenizer = load_tokenizer(model_folder(config.model.path))
    learner, measured = load_target(config, run_dir, groups)
    outputs = OutputsFile(folder=folder, samples_per_question=run.samples_per_question)
    settings = _settings(config, run, policy=measured)
    done = on_first_rank(lambda: outputs.open(settings), groups)
    writer = PromptWriter(config=run, tokenizer=tokenizer)
    engine = build_engine(config, learner.policy, tokenizer)
    engine.publish(learner.version)
    questions = read_questions(run, writer, done=done)
    console = Console(stderr=True, quiet=groups.rank > 0)
    console.print(f"{len(questions)} questions to ask, {len(done)} done before")
    try:
        with Progress(console=console, disable=groups.rank > 0) as progress:
            bar = progress.add_task("asking", total=len(questions))
            counts = ask_questions(
                questions,
                config=run,
                writer=writer,
                engine=engine,
                outputs=outputs if groups.rank == 0 else None,
                peers=data_parallel_peers(groups),
                on_progress=lambda num_asked: progress.advance(bar, num_asked),
            )
    finally:
        engine.close()
    console.print(
        f"asked {counts.num_asked}: {counts.num_cut} with a document cut in the middle, "
        f"{counts.num_aborted} given up by the engine"
    )
