"""The audit itself: read every file once, evaluation data first, and gather what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_longrlvr.data.audit.document_windows import EvalWindows, Windows, index_windows
from megatron_longrlvr.data.audit.examine import (
    BatchFacts,
    ExamineSettings,
    Identity,
    PromptMeasures,
)
from megatron_longrlvr.data.audit.findings import Check, Finding
from megatron_longrlvr.data.audit.question_sketch import Sketches, match_questions
from megatron_longrlvr.data.audit.report import AuditReport, AuditRequest, Measures
from megatron_longrlvr.data.audit.workers import Examine, open_workers
from megatron_longrlvr.data.raw_rows import RawBatch, iter_batches
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import DataError


def run_audit(
    request: AuditRequest, *, on_rows: Callable[[int], None] = lambda _: None
) -> AuditReport:
    """Read and check all files.

    Args:
        request: What to audit.
        on_rows: Told, batch by batch, how many more rows were examined.

    Raises:
        ConfigError: The tokenizer cannot be read.
        DataError: A file is absent or of an unknown kind. One that is unreadable is a finding.
    """
    _check_paths([*request.data, *request.eval_data])
    load_tokenizer(request.tokenizer)  # A wrong folder is told before any process starts.
    scan = _Scan(request=request, on_rows=on_rows)
    with open_workers(request.num_workers) as examine:
        scan.read_eval(examine)
        scan.read_train(examine)
    return scan.finish()


@dataclass(kw_only=True, slots=True)
class _Side:
    """What is kept of each parsed record: of the evaluation data, or of the training data."""

    places: list[str] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    sketches: list[Sketches] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class _Scan:
    request: AuditRequest
    on_rows: Callable[[int], None]
    findings: list[Finding] = field(default_factory=list)
    measures: Measures = field(default_factory=Measures)
    evaluation: _Side = field(default_factory=_Side)
    train: _Side = field(default_factory=_Side)
    overlaps: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By place in the training side: place of an evaluation document, and the share it holds."""

    first_place_by_id: dict[str, str] = field(default_factory=dict)

    def read_eval(self, examine: Examine) -> None:
        if not self.request.eval_data:
            return
        batches = self._iter_batches(self.request.eval_data)
        for facts in examine(batches, self._settings(is_eval=True)):
            self.measures.num_eval_rows += len(facts.rows)
            for place, identity, _ in self._take(facts, self.evaluation):
                self.evaluation.places.append(place)
                self.evaluation.identities.append(identity)

    def read_train(self, examine: Examine) -> None:
        index = self._index_eval()
        batches = self._iter_batches(self.request.data)
        for facts in examine(batches, self._settings(is_eval=False)):
            self.measures.num_rows += len(facts.rows)
            for place, identity, measures in self._take(facts, self.train):
                self._note_id(place, identity.prompt_id)
                if identity.windows is not None and (found := index.overlap(identity.windows)):
                    self.overlaps[len(self.train.places)] = found
                self.train.places.append(place)
                self.train.identities.append(_without_windows(identity))
                if measures is not None:
                    self.measures.add(measures)

    def finish(self) -> AuditReport:
        self._compare_questions()
        keys = {identity.document_key for identity in self.train.identities}
        self.measures.num_documents = len(keys)
        return AuditReport(
            request=self.request, findings=tuple(self.findings), measures=self.measures
        )

    def _settings(self, *, is_eval: bool) -> ExamineSettings:
        return ExamineSettings(
            tokenizer=self.request.tokenizer,
            max_prompt_tokens=self.request.max_prompt_tokens,
            cut=self.request.cut,
            has_windows=bool(self.request.eval_data),
            is_eval=is_eval,
        )

    def _iter_batches(self, paths: Iterable[Path]) -> Iterator[RawBatch]:
        for path in paths:
            try:
                yield from iter_batches(path)
            except DataError as error:
                message = str(error).removeprefix(f"{path}: ")
                self.findings.append(
                    Finding(check=Check.UNREADABLE_FILE, place=str(path), message=message)
                )

    def _take(
        self, facts: BatchFacts, side: _Side
    ) -> Iterator[tuple[str, Identity, PromptMeasures | None]]:
        side.sketches.append(facts.sketches)
        for row in facts.rows:
            self.findings.extend(row.findings)
            if row.identity is not None:
                yield row.place, row.identity, row.measures
        self.on_rows(len(facts.rows))

    def _note_id(self, place: str, prompt_id: str) -> None:
        first = self.first_place_by_id.setdefault(prompt_id, place)
        if first != place:
            self._found(Check.REPEATED_PROMPT_ID, place, prompt_id, f"already taken by {first}")

    def _index_eval(self) -> EvalWindows:
        empty: Windows = np.zeros(0, dtype=np.uint64)
        documents = [identity.windows for identity in self.evaluation.identities]
        return index_windows([empty if windows is None else windows for windows in documents])

    def _compare_questions(self) -> None:
        everything = [*self.evaluation.identities, *self.train.identities]
        sketches = [*self.evaluation.sketches, *self.train.sketches]
        if not everything:
            return
        num_eval = len(self.evaluation.identities)
        with_eval, with_train = match_questions(
            [identity.question for identity in everything],
            np.concatenate(sketches),
            num_eval=num_eval,
        )
        for place, identity in enumerate(self.train.identities):
            name, at = identity.prompt_id, self.train.places[place]
            if match := with_train.get(num_eval + place):
                other = match.earlier - num_eval
                is_same = identity.document_key == self.train.identities[other].document_key
                message = f"{match.similarity:.0%} like {self.train.places[other]}, on " + (
                    "the same document" if is_same else "another document"
                )
                self._found(Check.NEAR_DUPLICATE_QUESTION, at, name, message)
            question, overlap = with_eval.get(num_eval + place), self.overlaps.get(place)
            told = []
            if question:
                earlier = self.evaluation.places[question.earlier]
                told.append(f"question {question.similarity:.0%} like {earlier}")
            if overlap:
                told.append(
                    f"{overlap[1]:.0%} of the document in {self.evaluation.places[overlap[0]]}"
                )
            if told:
                check = _eval_check(has_question=bool(question), has_document=bool(overlap))
                self._found(check, at, name, "; ".join(told))

    def _found(self, check: Check, place: str, prompt_id: str, message: str) -> None:
        self.findings.append(
            Finding(check=check, place=place, message=message, prompt_id=prompt_id)
        )


def _eval_check(*, has_question: bool, has_document: bool) -> Check:
    if has_question and has_document:
        return Check.EVAL_ITEM
    return Check.EVAL_QUESTION if has_question else Check.EVAL_DOCUMENT


def _without_windows(identity: Identity) -> Identity:
    return Identity(
        prompt_id=identity.prompt_id,
        question=identity.question,
        document_key=identity.document_key,
        windows=None,
    )


def _check_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise DataError(f"no data file {path}")
        if path.suffix not in {".jsonl", ".parquet"}:
            raise DataError(f"{path} must end in .jsonl or .parquet")
