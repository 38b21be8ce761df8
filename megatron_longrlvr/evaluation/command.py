"""``longrlvr evaluate``: measure a recipe's starting model, or a run's newest checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from megatron_longrlvr.config.checks import check_engine_size
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.evaluation.target import load_target, read_target
from megatron_longrlvr.parallel.groups import ProcessGroups, launched_world_size
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.trainer.assembly import build_evaluator
from megatron_longrlvr.trainer.engines import build_engine
from megatron_longrlvr.trainer.judging import build_scorer
from megatron_longrlvr.trainer.model_folder import model_folder
from megatron_longrlvr.trainer.session import process_groups


def evaluate_target(target: str, overrides: Sequence[str]) -> dict[str, float] | None:
    """Measure and show; called on every rank.

    Args:
        target: A run directory, or a recipe.
        overrides: ``key=value`` settings, most usefully of ``evaluation``.

    Returns:
        Metrics by name on the first rank, None on the others.

    Raises:
        ConfigError: The recipe has no evaluation section, or cannot run.
        CheckpointError: The run has no whole checkpoint.
        JudgeUnavailable: Too many answers have no verdict.
    """
    found = read_target(target, overrides)
    config, run_dir = found.config, found.run_dir
    if config.evaluation is None:
        raise ConfigError(f"{found.name} has no evaluation section, so there is nothing to measure")
    layout = ParallelLayout.from_config(config.layout, launched_world_size())
    check_engine_size(config, layout)
    with process_groups(layout, seed=config.run.seed) as groups:
        tokenizer = load_tokenizer(model_folder(config.model.path))
        learner, measured = load_target(config, run_dir, groups)
        engine = build_engine(config, learner.policy, tokenizer)
        engine.publish(learner.version)
        scorer = build_scorer(config.rewards, groups, run_dir=run_dir, say=_announcer(groups))
        evaluator = build_evaluator(config, groups, engine, tokenizer, scorer=scorer)
        assert evaluator is not None, "the recipe has an evaluation section"
        try:
            metrics, _ = evaluator.evaluate()
        finally:
            scorer.close()
            engine.close()
        if groups.rank > 0:
            return None
    _show(metrics, f"{measured} on {_describe(config)}")
    return metrics


def _announcer(groups: ProcessGroups) -> Callable[[str], None]:
    console = Console(highlight=False, quiet=groups.rank > 0)
    return lambda text: console.print(text, soft_wrap=True, markup=False)


def _describe(config: TrainConfig) -> str:
    assert config.evaluation is not None, "checked by the caller"
    return json.dumps(config.evaluation.model_dump(mode="json"))


def _show(metrics: dict[str, float], title: str) -> None:
    console = Console(highlight=False)
    table = Table("metric", "value")
    for name, value in sorted(metrics.items()):
        table.add_row(name, f"{value:.4g}")
    console.print(title, soft_wrap=True, markup=False)
    console.print(table)
