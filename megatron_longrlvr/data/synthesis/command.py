"""What ``longrlvr data`` does: run stages, put shards together, say where a synthesis stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_longrlvr.chat.client import read_keys
from megatron_longrlvr.config.load import write_config
from megatron_longrlvr.config.synthesis import SynthesisConfig
from megatron_longrlvr.data.synthesis.estimate import Estimate, estimate
from megatron_longrlvr.data.synthesis.folder import ROWS, Manifest
from megatron_longrlvr.data.synthesis.pipeline import Pipeline
from megatron_longrlvr.data.synthesis.stage import Stage
from megatron_longrlvr.data.synthesis.workspace import SHARDED, STAGES, Shard, Workspace
from megatron_longrlvr.errors import ConfigError, DataError


def run_stages(
    config: SynthesisConfig, *, names: Sequence[str] | None = None, shard: str | None = None
) -> int:
    """Run stages that are not done.

    Args:
        config: The recipe.
        names: Stages; None for all.
        shard: ``I/N`` for a part of the documents; the stages before ``chunk`` must be done, and
            those behind ``evidence`` wait for the merge.

    Returns:
        Rows of the training file; 0 where it is not written yet.

    Raises:
        ConfigError: A stage is not known, or not one that shards have.
        DataError: Documents cannot be read, or an earlier stage is not done.
        ServersUnavailable: A model did not reply.
    """
    part = None if shard is None else Shard.parse(shard)
    for name in names or ():
        if name not in STAGES:
            raise ConfigError(f"no stage {name!r}; there are {', '.join(STAGES)}")
        if part is not None and name not in SHARDED:
            raise ConfigError(f"stage {name} is not shared out: run it without --shard")
    pipeline = _pipeline(config, part)
    pipeline.workspace.root.mkdir(parents=True, exist_ok=True)
    if part is None:
        write_config(config, pipeline.workspace.root / "config.json")
    pipeline.run(names)
    return pipeline.workspace.num_rows("export")


def training_file(config: SynthesisConfig) -> Path:
    """Where the rows of the last stage lie."""
    return _pipeline(config, None).workspace.folder("export") / ROWS


def stages_until(name: str) -> Sequence[str]:
    """Stages up to one of them.

    Raises:
        ConfigError: There is no such stage.
    """
    if name not in STAGES:
        raise ConfigError(f"no stage {name!r}; there are {', '.join(STAGES)}")
    return STAGES[: STAGES.index(name) + 1]


def show_estimate(config: SynthesisConfig, *, shard: str | None = None) -> None:
    """Check everything that can be checked ahead, and print what is ahead.

    Raises:
        ConfigError: A template, a tokenizer or a key is missing.
        DataError: A path stands for nothing.
    """
    part = None if shard is None else Shard.parse(shard)
    pipeline = _pipeline(config, part)
    tokenizer = Path(config.clean.tokenizer)
    if not tokenizer.is_dir():
        raise ConfigError(f"clean.tokenizer: no folder {tokenizer}")
    for stage in pipeline.stages():
        stage.settings()  # reads every template
    for name, model in config.models.items():
        read_keys(model.endpoints, section=f"models.{name}")
    _print_estimate(pipeline.console, estimate(config, pipeline.workspace))


def _print_estimate(console: Console, ahead: Estimate) -> None:
    say = f"{ahead.num_documents} documents of {ahead.document_tokens} tokens, from {ahead.basis}"
    console.print(say, highlight=False, soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False, title="at most", title_justify="left")
    for heading in ("stage", "model", "requests", "prompt tokens", "reply tokens", "cost"):
        table.add_column(heading, justify="left" if heading in {"stage", "model"} else "right")
    for stage in ahead.stages:
        numbers = (stage.requests, stage.prompt_tokens, stage.reply_tokens)
        table.add_row(
            stage.stage, stage.model, *(f"{number:,}" for number in numbers), f"{stage.cost:,.2f}"
        )
    table.add_section()
    table.add_row(
        "all",
        "",
        f"{sum(stage.requests for stage in ahead.stages):,}",
        f"{sum(stage.prompt_tokens for stage in ahead.stages):,}",
        f"{sum(stage.reply_tokens for stage in ahead.stages):,}",
        f"{sum(stage.cost for stage in ahead.stages):,.2f}",
    )
    console.print(table)


def merge_shards(config: SynthesisConfig, *, num_shards: int) -> None:
    """Put the stages of all shards together; ``run_stages`` then goes on behind them.

    Raises:
        DataError: A shard is not done.
    """
    _pipeline(config, None).merge(num_shards)


def show_status(config: SynthesisConfig, *, shard: str | None = None) -> None:
    """Print what each stage came to and what it dropped."""
    pipeline = _pipeline(config, None if shard is None else Shard.parse(shard))
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "state", "items", "rows", "dropped or quarantined"):
        is_count = heading in {"items", "rows"}
        table.add_column(heading, justify="right" if is_count else "left")
    for stage in pipeline.stages():
        manifest = pipeline.workspace.manifest(stage.name)
        counts = {} if manifest is None else manifest["counts"]
        lost = [
            f"{name.partition('/')[2]} {count}" for name, count in counts.items() if "/" in name
        ]
        table.add_row(
            stage.name,
            _state(pipeline, stage, manifest),
            str(counts.get("items", "")),
            str(counts.get("rows", 0)) if counts else "",
            ", ".join(lost),
        )
    pipeline.console.print(table)


def _state(pipeline: Pipeline, stage: Stage, manifest: Manifest | None) -> str:
    if manifest is None:
        return "to do"
    try:
        is_done = pipeline.is_done(stage, pipeline.head(stage))
    except DataError:
        is_done = False
    return "done" if is_done else "stale"


def _pipeline(config: SynthesisConfig, shard: Shard | None) -> Pipeline:
    workspace = Workspace(root=Path(config.run.dir), shard=shard)
    return Pipeline(config=config, workspace=workspace, console=Console())
