"""The judge of a run, on the rank that asks and on those that get its verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.parallel.collectives import gather_objects, sum_over
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.rewards.judge.panel import JudgePanel, Peers
from megatron_longrlvr.rewards.judge.service import JudgeService, open_judge
from megatron_longrlvr.rewards.scorer import RewardScorer


def build_scorer(
    config: RewardsConfig,
    groups: ProcessGroups,
    *,
    run_dir: Path | None,
    say: Callable[[str], None],
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> RewardScorer:
    """Build the scorer of this rank, with a judge where the recipe has one.

    Args:
        config: The recipe's rewards.
        groups: Of this rank.
        run_dir: Where the cache of verdicts lies; without one nothing is kept.
        say: Tells the person who watches.
        is_stop_asked: Whether this rank was told to end the run; asked while it waits.

    Raises:
        ConfigError: The judge cannot be asked: a key is missing, for one. Raised on every rank.
    """
    if config.judge is None:
        return RewardScorer(config)
    first = first_of_replica(groups)
    peers = Peers(
        # All ranks of the run take part: one gather serves every replica.
        share=lambda value: gather_objects(value, groups.world)[first],
        sum_over_replicas=lambda values: sum_over(groups.dp, values),
        say=say,
        is_stop_asked=is_stop_asked,
    )
    judge = _open_judge(config.judge, groups, run_dir)
    return RewardScorer(config, JudgePanel(judge=judge, outage=config.judge.outage, peers=peers))


def _open_judge(
    config: JudgeConfig, groups: ProcessGroups, run_dir: Path | None
) -> JudgeService | None:
    judge, problem = None, ""
    if groups.rank == first_of_replica(groups):
        try:
            judge = open_judge(config, run_dir=run_dir)
        except ConfigError as error:
            problem = str(error)
    # Ranks that went on without the one that cannot would wait for it forever.
    problems = [text for text in gather_objects(problem, groups.world) if text]
    if problems:
        if judge is not None:
            judge.close()
        raise ConfigError(problems[0])
    return judge


def first_of_replica(groups: ProcessGroups) -> int:
    """World rank that asks on behalf of the ranks which sample the same prompts as this one."""
    layout = groups.layout
    return next(
        rank for rank in range(layout.world_size) if layout.coordinates(rank).dp == groups.dp_rank
    )
