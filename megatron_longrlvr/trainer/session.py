"""From a command line's configuration to a finished run: processes up, run, processes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.errors import ConfigError, DataError, JudgeUnavailable
from megatron_longrlvr.model.hf_export import export_policy
from megatron_longrlvr.parallel.collectives import broadcast_object
from megatron_longrlvr.parallel.groups import (
    ProcessGroups,
    close_process_groups,
    launched_world_size,
    start_process_groups,
)
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.trainer.assembly import assemble
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.loop import TrainingRun, train
from megatron_longrlvr.trainer.model_folder import model_folder
from megatron_longrlvr.trainer.run_dir import RunDir, claim_run_dir, hold_run_dir

STOPPED_EXIT_CODE = 130

_Value = TypeVar("_Value")


@contextmanager
def process_groups(layout: ParallelLayout, *, seed: int) -> Iterator[ProcessGroups]:
    """Bring the ranks together for the length of a run."""
    groups = start_process_groups(layout, seed=seed)
    try:
        yield groups
    finally:
        close_process_groups()


def run_training(config: TrainConfig) -> int:
    """Train as the recipe says; called on every rank.

    Returns:
        Exit code: 0 at the last step, ``STOPPED_EXIT_CODE`` when stopped by a signal before it,
        that of ``JudgeUnavailable`` when too many answers had no verdict.
    """
    world_size = launched_world_size()
    check_train_config(config, world_size=world_size)
    layout = ParallelLayout.from_config(config.layout, world_size)
    stop = StopRequest()
    path = Path(config.run.dir)
    with process_groups(layout, seed=config.run.seed) as groups, held_run_dir(path, groups):
        run_dir = share_run_dir(config, path, groups)
        if run_dir.is_finished(config.trainer.steps):
            if groups.rank == 0:
                _announce(f"{run_dir.path} is already finished: {config.trainer.steps} steps")
            return 0
        run = assemble(config, groups, run_dir, is_stop_asked=lambda: stop.signal_name is not None)
        try:
            is_complete = training_loop(config.trainer.loop)(run, stop)
            if is_complete and config.trainer.export_hf:
                export_policy(
                    run.parts.learner.policy,
                    run_dir.path / "hf",
                    tokenizer_folder=model_folder(config.model.path),
                )
        except JudgeUnavailable as outage:
            run.journal.say(f"stopped: {outage}; a checkpoint is saved, the same command goes on")
            return JudgeUnavailable.EXIT_CODE
        finally:
            run.close()
            run.journal.close()
        if is_complete and groups.rank == 0:
            run_dir.mark_finished(config.trainer.steps)
    return 0 if is_complete else STOPPED_EXIT_CODE


def training_loop(
    name: Literal["native", "nemo_aligner"],
) -> Callable[[TrainingRun, StopRequest], bool]:
    """The loop that a recipe names.

    Raises:
        ConfigError: It needs a library that is not installed.
    """
    if name == "nemo_aligner":
        from megatron_longrlvr.aligner import loop as aligner_loop

        return aligner_loop.train
    return train


@contextmanager
def held_run_dir(path: Path, groups: ProcessGroups) -> Iterator[None]:
    """Keep other runs of this machine from a directory; the refusal of one rank reaches all."""
    with ExitStack() as stack:
        on_first_rank(lambda: stack.enter_context(hold_run_dir(path)), groups)
        yield


def share_run_dir(config: Section, path: Path, groups: ProcessGroups) -> RunDir:
    """Claim the run directory on one rank and tell the others; its refusal reaches all."""

    def claim() -> RunDir:
        return claim_run_dir(config, path, may_write=True)

    return on_first_rank(claim, groups)


def on_first_rank(action: Callable[[], _Value], groups: ProcessGroups) -> _Value:
    """Run ``action`` on rank 0; what it returns, or refuses, reaches every rank.

    Raises:
        ConfigError, DataError: As the action did.
    """
    result: tuple[_Value | None, ConfigError | DataError | None] | None = None
    if groups.rank == 0:
        try:
            result = (action(), None)
        except (ConfigError, DataError) as error:
            result = (None, error)
    value, problem = broadcast_object(result, groups.world)
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value] # None only where the action returns None


def _announce(text: str) -> None:
    from rich.console import Console

    Console(highlight=False).print(text, soft_wrap=True, markup=False)
