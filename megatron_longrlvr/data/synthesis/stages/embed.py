"""embed: a vector for each chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from megatron_longrlvr.config.synthesis import EmbedConfig
from megatron_longrlvr.data.synthesis.documents import DocumentItem, iter_document_items
from megatron_longrlvr.data.synthesis.embedders.embedder import Embedder, build_embedder
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Outcome
from megatron_longrlvr.data.synthesis.rows import Chunking, Embedding
from megatron_longrlvr.data.synthesis.stage import Desk, Task, run_tasks
from megatron_longrlvr.data.synthesis.stages.clean import as_part_of
from megatron_longrlvr.data.synthesis.workspace import Workspace

# How vectors are come by, not what they are.
_NO_SETTINGS = {"endpoints", "retry", "breaker", "batch_size", "device", "price_per_million_tokens"}


@dataclass(frozen=True, kw_only=True)
class EmbedStage:
    """Embeds the chunks of one document after the other."""

    config: EmbedConfig

    name = "embed"
    record = Embedding
    inputs = ("chunk", "dedup")
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        return as_part_of(self.config.model_dump(mode="json", exclude=_NO_SETTINGS))

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("chunk")

    def run(self, desk: Desk) -> None:
        embedder = build_embedder(self.config)
        settings = self.settings()

        def tasks() -> Iterator[Task]:
            for item in iter_document_items(desk.workspace, "chunk", Chunking):
                (chunking,) = item.rows
                key = hash_of(settings, chunking.document_index, item.document_id, chunking.ends)
                yield Task(
                    name=item.document_id,
                    key=key,
                    work=partial(_embed, item, embedder),
                )

        try:
            run_tasks(tasks(), desk, Embedding)
        finally:
            embedder.close()


def _embed(item: DocumentItem[Chunking], embedder: Embedder) -> Outcome:
    vectors = embedder.embed(item.chunks)
    assert len(vectors) == len(item.chunks), "a vector for each chunk"
    row = Embedding(
        document_index=item.document.document_index,
        document_id=item.document_id,
        num_dims=vectors.shape[1],
        vectors=vectors.tobytes(),
    )
    return Outcome(rows=(row,))
