"""chunk: where each document is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_longrlvr.config.synthesis import ChunkConfig
from megatron_longrlvr.data.chunking import split_into_chunks
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.synthesis.documents import chunk_texts, iter_documents
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.rows import Chunking, Document
from megatron_longrlvr.data.synthesis.stage import Desk, Task, run_tasks
from megatron_longrlvr.data.synthesis.stages.read import tokenizer_hash
from megatron_longrlvr.data.synthesis.workspace import Workspace
from megatron_longrlvr.data.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class ChunkStage:
    """Cuts documents as ``data/chunking.py`` does."""

    config: ChunkConfig
    tokenizer: str

    name = "chunk"
    record = Chunking
    inputs = ("dedup",)
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        return {
            "max_tokens": self.config.max_tokens,
            "tokenizer": tokenizer_hash(self.tokenizer),
        }

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_documents()

    def run(self, desk: Desk) -> None:
        tokenizer = load_tokenizer(Path(self.tokenizer))
        settings = self.settings()

        def tasks() -> Iterator[Task]:
            for document in iter_documents(desk.workspace):
                key = hash_of(settings, document.document_index, document.document_id)
                yield Task(
                    name=document.document_id,
                    key=key,
                    work=partial(self._cut, document, tokenizer),
                )

        run_tasks(tasks(), desk, Chunking)

    def _cut(self, document: Document, tokenizer: Tokenizer) -> Outcome:
        def count_tokens(text: str) -> int:
            # The whole document was counted before: a third of what cutting has counted.
            return document.num_tokens if text == document.text else len(tokenizer.encode(text))

        chunks = split_into_chunks(
            document.text, max_tokens=self.config.max_tokens, count_tokens=count_tokens
        )
        ends = tuple(chunk.end_char for chunk in chunks)
        try:
            # Told now rather than after money was spent on its questions.
            render_prompt(chunks=chunk_texts(document.text, ends), question="?")
        except ValueError:
            reason = Reason.HOLDS_CHUNK_TAGS
            return Outcome(dropped=(Dropped(item=document.document_id, reason=reason),))
        row = Chunking(
            document_index=document.document_index, document_id=document.document_id, ends=ends
        )
        return Outcome(rows=(row,))
