"""clean: documents in one form, of a length and a language that are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from megatron_longrlvr.config.synthesis import CleanConfig
from megatron_longrlvr.data.chunking import split_into_chunks
from megatron_longrlvr.data.synthesis.cleaning import clean_text, detect_language, sketch_tokens
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.rows import CleanDocument, RawDocument
from megatron_longrlvr.data.synthesis.stage import Desk, Task, as_part, run_tasks
from megatron_longrlvr.data.synthesis.stages.read import tokenizer_hash
from megatron_longrlvr.data.synthesis.workspace import Workspace
from megatron_longrlvr.data.tokenizer import Tokenizer, load_tokenizer

_ID_CHARS = 32


@dataclass(frozen=True, kw_only=True)
class CleanStage:
    """Normalises, measures and filters each document by itself."""

    config: CleanConfig

    name = "clean"
    record = CleanDocument
    inputs = ("read",)
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        content = self.config.model_dump(mode="json", exclude={"near_duplicate_similarity"})
        return {**as_part_of(content), "tokenizer": tokenizer_hash(self.config.tokenizer)}

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("read")

    def run(self, desk: Desk) -> None:
        tokenizer = load_tokenizer(Path(self.config.tokenizer))
        settings = self.settings()

        def tasks() -> Iterator[Task]:
            for raw in desk.rows("read", RawDocument):
                key = hash_of(settings, raw.source, raw.kind, raw.text)
                yield Task(name=raw.source, key=key, work=partial(self._clean, raw, tokenizer))

        run_tasks(tasks(), desk, CleanDocument)

    def _clean(self, raw: RawDocument, tokenizer: Tokenizer) -> Outcome:
        text = clean_text(raw.text)
        if not text:
            return Outcome(dropped=(Dropped(item=raw.source, reason=Reason.NO_TEXT),))
        language = "" if raw.kind == "code" else detect_language(text)
        if language and self.config.languages and language not in self.config.languages:
            drop = Dropped(item=raw.source, reason=Reason.OTHER_LANGUAGE, detail=language)
            return Outcome(dropped=(drop,))
        rows, dropped = [], []
        for part_source, part in self._parts(raw.source, text, tokenizer):
            token_ids = np.array(tokenizer.encode(part), dtype=np.int64)
            problem = self._length_problem(len(token_ids))
            if problem is not None:
                detail = f"{len(token_ids)} tokens"
                dropped.append(Dropped(item=part_source, reason=problem, detail=detail))
                continue
            rows.append(
                CleanDocument(
                    document_id=hashlib.sha256(part.encode()).hexdigest()[:_ID_CHARS],
                    source=part_source,
                    kind=raw.kind,
                    language=language,
                    num_tokens=len(token_ids),
                    sketch=sketch_tokens(token_ids).tobytes(),
                    text=part,
                )
            )
        return Outcome(rows=tuple(rows), dropped=tuple(dropped))

    def _parts(self, source: str, text: str, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
        """The document, or the pieces that it is split into."""
        if self.config.longer == "drop":
            yield source, text
            return
        pieces = split_into_chunks(
            text,
            max_tokens=self.config.max_tokens,
            count_tokens=lambda piece: len(tokenizer.encode(piece)),
        )
        for piece in pieces:
            name = source if len(pieces) == 1 else f"{source}#{piece.chunk_id}"
            part = text[piece.start_char : piece.end_char].strip()
            if part:
                yield name, part

    def _length_problem(self, num_tokens: int) -> Reason | None:
        if num_tokens < self.config.min_tokens:
            return Reason.TOO_SHORT
        return Reason.TOO_LONG if num_tokens > self.config.max_tokens else None


def as_part_of(content: Mapping[str, object]) -> Mapping[str, Part]:
    """What pydantic dumped, as settings of a stage."""
    return {name: as_part(value) for name, value in content.items()}
