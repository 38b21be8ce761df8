"""The audit itself: read every file once, evaluation data first, and gather what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from megatron_longrlvr.data.audit.compare import Side, compare_records
from megatron_longrlvr.data.audit.document_windows import EvalWindows, Windows, index_windows
from megatron_longrlvr.data.audit.examine import BatchFacts, ExamineSettings
from megatron_longrlvr.data.audit.findings import Check, Finding
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
class _Scan:
    request: AuditRequest
    on_rows: Callable[[int], None]
    findings: list[Finding] = field(default_factory=list)
    measures: Measures = field(default_factory=Measures)
    evaluation: Side = field(default_factory=Side)
    train: Side = field(default_factory=Side)
    overlaps: dict[int, tuple[int, float]] = field(default_factory=dict)

    def read_eval(self, examine: Examine) -> None:
        if not self.request.eval_data:
            return
        batches = self._iter_batches(self.request.eval_data)
        for facts in examine(batches, self._settings(is_eval=True)):
            self.measures.num_eval_rows += self._note(facts)
            self.evaluation.take(facts)

    def read_train(self, examine: Examine) -> None:
        index = self._index_eval()
        batches = self._iter_batches(self.request.data)
        for facts in examine(batches, self._settings(is_eval=False)):
            self.measures.num_rows += self._note(facts)
            for place, identity, measures in self.train.take(facts):
                if identity.windows is not None and (found := index.overlap(identity.windows)):
                    self.overlaps[place] = found
                # Windows are some kilobytes a document, and have done their work.
                self.train.identities[place] = replace(identity, windows=None)
                if measures is not None:
                    self.measures.add(measures)

    def finish(self) -> AuditReport:
        compared = compare_records(self.train, self.evaluation, self.overlaps)
        self.findings.extend(compared)
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
            message, is_empty = None, True
            try:
                for batch in iter_batches(path):
                    is_empty = is_empty and not batch.holds_records
                    yield batch
            except DataError as error:
                message = str(error).removeprefix(f"{path}: ")
            if message is None and is_empty:
                message = "holds no record"
            if message is not None:
                self.findings.append(
                    Finding(check=Check.UNREADABLE_FILE, place=str(path), message=message)
                )

    def _note(self, facts: BatchFacts) -> int:
        """Keep a batch's findings; returns its number of rows."""
        for row in facts.rows:
            self.findings.extend(row.findings)
        self.on_rows(len(facts.rows))
        return len(facts.rows)

    def _index_eval(self) -> EvalWindows:
        empty: Windows = np.zeros(0, dtype=np.uint64)
        documents = [identity.windows for identity in self.evaluation.identities]
        return index_windows([empty if windows is None else windows for windows in documents])


def _check_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise DataError(f"no data file {path}")
        if path.suffix not in {".jsonl", ".parquet"}:
            raise DataError(f"{path} must end in .jsonl or .parquet")
