"""What an audit was asked and what it found, as records and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_longrlvr.data.audit.distribution import Distribution
from megatron_longrlvr.data.audit.examine import NUM_DECILES, PromptMeasures
from megatron_longrlvr.data.audit.findings import CHECK_INFO, Check, Finding, Severity
from megatron_longrlvr.data.reachability import Cut


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """What to audit."""

    data: tuple[Path, ...]
    eval_data: tuple[Path, ...] = ()
    tokenizer: Path
    """Hugging Face folder."""

    max_prompt_tokens: int
    cut: Cut = Cut.LEFT
    """Where prompts above the limit lose tokens; training cuts on the left."""

    num_workers: int = 1


@dataclass(kw_only=True, slots=True)
class Measures:
    """Sizes of the training data."""

    num_rows: int = 0
    """Records read, blank lines apart."""

    num_eval_rows: int = 0
    num_measured: int = 0
    """Records that could be parsed and rendered; the distributions are over these."""

    num_documents: int = 0
    """Different documents among them."""

    num_telling_answers: int = 0
    """Records whose answer can be looked for; see ``answers.py``."""

    num_answers_in_evidence: int = 0
    """Those of them whose evidence holds the answer word for word."""

    prompt_tokens: Distribution = field(default_factory=Distribution)
    chunks: Distribution = field(default_factory=Distribution)
    """Chunks per document."""

    chunk_tokens: Distribution = field(default_factory=Distribution)
    evidence_chunks: Distribution = field(default_factory=Distribution)
    """Evidence chunks per prompt."""

    evidence_deciles: Distribution = field(default_factory=Distribution)
    """Tenth of the document, from 0, in which an evidence chunk begins."""

    def add(self, prompt: PromptMeasures) -> None:
        self.num_measured += 1
        self.prompt_tokens.add([prompt.num_tokens])
        self.chunks.add([len(prompt.chunk_tokens)])
        self.chunk_tokens.add(prompt.chunk_tokens)
        self.evidence_chunks.add([prompt.num_evidence])
        self.evidence_deciles.add(prompt.evidence_deciles)
        if prompt.holds_answer is not None:
            self.num_telling_answers += 1
            self.num_answers_in_evidence += prompt.holds_answer

    def distributions(self) -> dict[str, Distribution]:
        """Title and values of what is shown as a histogram."""
        return {
            "prompt tokens": self.prompt_tokens,
            "chunks per document": self.chunks,
            "tokens per chunk": self.chunk_tokens,
            "evidence chunks per prompt": self.evidence_chunks,
        }

    def decile_counts(self) -> list[int]:
        """Evidence chunks by tenth of their document."""
        return [self.evidence_deciles.counts[decile] for decile in range(NUM_DECILES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """The outcome."""

    request: AuditRequest
    findings: tuple[Finding, ...]
    """In file order within each check."""

    measures: Measures

    def counts(self) -> Counter[Check]:
        """Findings by check."""
        return Counter(finding.check for finding in self.findings)

    def num_of(self, severity: Severity) -> int:
        """Findings of one severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def is_acceptable(self, *, strict: bool) -> bool:
        """Whether there is no error and, if strict, no warning either."""
        return not (self.findings if strict else self.num_of(Severity.ERROR))

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        request, measures, counts = self.request, self.measures, self.counts()
        return {
            "data": [str(path) for path in request.data],
            "eval_data": [str(path) for path in request.eval_data],
            "tokenizer": str(request.tokenizer),
            "max_prompt_tokens": request.max_prompt_tokens,
            "cut": request.cut.value,
            "num_rows": measures.num_rows,
            "num_eval_rows": measures.num_eval_rows,
            "num_measured": measures.num_measured,
            "num_documents": measures.num_documents,
            "num_telling_answers": measures.num_telling_answers,
            "num_answers_in_evidence": measures.num_answers_in_evidence,
            "num_errors": self.num_of(Severity.ERROR),
            "num_warnings": self.num_of(Severity.WARNING),
            "counts": {check.value: counts[check] for check in CHECK_INFO},
            "distributions": {
                title.replace(" ", "_"): {
                    **distribution.summary(),
                    "bins": [asdict(bar) for bar in distribution.bins()],
                }
                for title, distribution in measures.distributions().items()
            },
            "evidence_by_decile": measures.decile_counts(),
            "findings": [
                {
                    "check": finding.check.value,
                    "severity": finding.severity.value,
                    "place": finding.place,
                    "prompt_id": finding.prompt_id,
                    "message": finding.message,
                }
                for finding in self.findings
            ],
        }
