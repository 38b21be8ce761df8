"""The stages in order: which of them are done, running the others, putting shards together.

A stage is done when its manifest names the settings and the inputs that it would have today, by
the hashes of their rows. So a changed setting makes again what depends on it and nothing else, and
replies that were paid for are found again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from megatron_longrlvr.config.synthesis import SynthesisConfig
from megatron_longrlvr.data.synthesis.folder import (
    ROWS,
    Manifest,
    StageWriter,
    iter_rows,
)
from megatron_longrlvr.data.synthesis.progress import StageProgress
from megatron_longrlvr.data.synthesis.stage import Desk, Stage
from megatron_longrlvr.data.synthesis.stages.chunk import ChunkStage
from megatron_longrlvr.data.synthesis.stages.clean import CleanStage
from megatron_longrlvr.data.synthesis.stages.cluster import ClusterStage
from megatron_longrlvr.data.synthesis.stages.dedup import DedupStage
from megatron_longrlvr.data.synthesis.stages.difficulty import DifficultyStage
from megatron_longrlvr.data.synthesis.stages.embed import EmbedStage
from megatron_longrlvr.data.synthesis.stages.evidence import EvidenceStage
from megatron_longrlvr.data.synthesis.stages.export import ExportStage
from megatron_longrlvr.data.synthesis.stages.generate import GenerateStage
from megatron_longrlvr.data.synthesis.stages.read import ReadStage
from megatron_longrlvr.data.synthesis.stages.score import ScoreStage
from megatron_longrlvr.data.synthesis.stages.select import SelectStage
from megatron_longrlvr.data.synthesis.workspace import SHARDED, Shard, Workspace
from megatron_longrlvr.errors import DataError

# Changes when rows of the same settings and inputs would be others.
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """All stages of a recipe over one workspace."""

    config: SynthesisConfig
    workspace: Workspace
    console: Console

    def stages(self) -> Sequence[Stage]:
        """In order."""
        config, seed = self.config, self.config.run.seed
        return (
            ReadStage(config=config.read),
            CleanStage(config=config.clean),
            DedupStage(similarity=config.clean.near_duplicate_similarity),
            ChunkStage(config=config.chunk, tokenizer=config.clean.tokenizer),
            EmbedStage(config=config.embed),
            ClusterStage(config=config.cluster, seed=seed),
            GenerateStage(
                config=config.generate, model=config.models[config.generate.model], seed=seed
            ),
            ScoreStage(config=config.score, model=config.models[config.score.model], seed=seed),
            SelectStage(config=config.select, seed=seed),
            DifficultyStage(
                config=config.difficulty, answers=config.answers, models=config.models, seed=seed
            ),
            EvidenceStage(
                config=config.evidence, answers=config.answers, models=config.models, seed=seed
            ),
            ExportStage(config=config.export, tokenizer=config.clean.tokenizer),
        )

    def run(self, names: Sequence[str] | None = None) -> None:
        """Run what is not done, in order.

        Args:
            names: Stages; None for all, of a shard for those that are shared out.

        Raises:
            DataError: A stage before them is not done, or documents cannot be read.
            ServersUnavailable: A model did not reply.
        """
        for stage in self.stages():
            is_wanted = names is None or stage.name in names
            if not is_wanted or (self.workspace.shard is not None and stage.name not in SHARDED):
                continue
            head = self.head(stage)
            if self.is_done(stage, head):
                self._say(f"{stage.name}: done")
                continue
            self._run(stage, head)

    def head(self, stage: Stage) -> Manifest:
        """What a stage is made from.

        Raises:
            DataError: A stage that it reads is not done.
        """
        inputs = {}
        for name in stage.inputs:
            manifest = self.workspace.manifest(name)
            if manifest is None:
                raise DataError(
                    f"stage {stage.name} reads {name}, which is not done in "
                    f"{self.workspace.folder(name)}; run it first"
                )
            inputs[name] = manifest["sha256"][ROWS]
        return {
            "format": _FORMAT,
            "stage": stage.name,
            "settings": stage.settings(),
            "inputs": inputs,
        }

    def is_done(self, stage: Stage, head: Manifest) -> bool:
        """Whether the stage was made from just this."""
        manifest = self.workspace.manifest(stage.name)
        return manifest is not None and all(
            manifest.get(name) == _as_read(value) for name, value in head.items()
        )

    def merge(self, num_shards: int) -> None:
        """Put the shards' stages together, as if one machine had done them.

        Raises:
            DataError: A shard is missing, not done, or was made from something else.
        """
        parts = [
            Workspace(root=self.workspace.root, shard=Shard(index=index, count=num_shards))
            for index in range(num_shards)
        ]
        for stage in self.stages():
            if stage.name not in SHARDED:
                continue
            for part in parts:
                seen = Pipeline(config=self.config, workspace=part, console=self.console)
                if not seen.is_done(stage, seen.head(stage)):
                    raise DataError(
                        f"stage {stage.name} of shard {part.shard} is not done with these "
                        f"settings; run it with --shard {part.shard}"
                    )
            head = self.head(stage)
            if self.is_done(stage, head):
                continue
            writer = StageWriter(self.workspace.folder(stage.name), stage.record)
            streams: list[Iterator[Any]] = [
                iter_rows(part.folder(stage.name), stage.record) for part in parts
            ]
            for row in heapq.merge(*streams, key=lambda row: row.document_index):
                writer.add_row(row)
            for part in parts:
                writer.add_rest(part.folder(stage.name))
            writer.finish(head)
            self._say(f"{stage.name}: {num_shards} shards put together")

    def _run(self, stage: Stage, head: Manifest) -> None:
        if self.workspace.manifest(stage.name) is not None:
            self._say(f"{stage.name}: settings or inputs have changed, made again")
        kept = self.workspace.open_kept(stage.name)
        writer = StageWriter(self.workspace.folder(stage.name), stage.record)
        num_items = stage.count_items(self.workspace)
        try:
            with StageProgress(self.console, stage.name, num_items=num_items) as progress:
                desk = Desk(
                    workspace=self.workspace,
                    writer=writer,
                    kept=kept,
                    progress=progress,
                    seed=self.config.run.seed,
                )
                stage.run(desk)
        except BaseException:
            writer.abandon()
            kept.close()
            raise
        writer.finish(head)
        if stage.keeps_for_good:
            kept.close()
        else:
            kept.remove()

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def _as_read(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A value as it comes back from JSON, where there are no tuples."""
    if isinstance(value, dict):
        return {name: _as_read(inner) for name, inner in value.items()}
    return [_as_read(inner) for inner in value] if isinstance(value, list | tuple) else value
