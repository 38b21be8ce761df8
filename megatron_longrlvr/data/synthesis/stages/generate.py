"""generate: candidates of question, answer and evidence for each cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.config.synthesis import ChatModelConfig, GenerateConfig
from megatron_longrlvr.data.synthesis.documents import DocumentItem, iter_document_items
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.language_model import (
    LanguageModel,
    Question,
    WrongContent,
    model_settings,
    only_keys,
    text_of,
    whole_number,
)
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Quarantined, Reason
from megatron_longrlvr.data.synthesis.prompts import (
    QUESTION_FIELDS,
    QUESTION_FORM,
    PromptMaker,
    numbered,
)
from megatron_longrlvr.data.synthesis.rows import Candidate, Cluster
from megatron_longrlvr.data.synthesis.stage import Desk, Unusable, gather, run_requests
from megatron_longrlvr.data.synthesis.stages.clean import as_part_of
from megatron_longrlvr.data.synthesis.workspace import Workspace

# A question that speaks of what only the writer saw.
_MENTIONS_PASSAGES = re.compile(r"\b(?:passage|chunk|excerpt)s?\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """The model says that no good question can be asked."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A candidate before it is known where its passages stand in the document."""

    question: str
    answer: str
    explanation: str
    numbers: tuple[int, ...]
    """Of passages as shown, from 1, ascending."""


@dataclass(frozen=True, kw_only=True)
class GenerateStage:
    """Asks for several candidates about each cluster."""

    config: GenerateConfig
    model: ChatModelConfig
    seed: int

    name = "generate"
    record = Candidate
    inputs = ("cluster", "chunk", "dedup")
    keeps_for_good = True

    def settings(self) -> Mapping[str, Part]:
        return {
            **as_part_of(self.config.model_dump(mode="json")),
            "model": model_settings(self.model),
            "template": self._prompts().version,
            "seed": self.seed,
        }

    def count_items(self, workspace: Workspace) -> int:
        return len({row.document_index for row in workspace.rows("cluster", Cluster)})

    def run(self, desk: Desk) -> None:
        asyncio.run(self._run(desk))

    async def _run(self, desk: Desk) -> None:
        writer = LanguageModel(
            self.model, name=self.config.model, kept=desk.kept, progress=desk.progress
        )
        prompts = self._prompts()
        items = iter_document_items(desk.workspace, "cluster", Cluster)
        try:
            await run_requests(
                items,
                lambda item: self._write(item, writer, prompts),
                desk,
                num_ahead=1 + writer.max_concurrent // self.config.candidates_per_cluster,
            )
        finally:
            await writer.close()

    async def _write(
        self, item: DocumentItem[Cluster], writer: LanguageModel, prompts: PromptMaker
    ) -> Outcome:
        places = [
            (cluster, number)
            for cluster in item.rows
            for number in range(self.config.candidates_per_cluster)
        ]
        questions = [self._question(item, cluster, number, prompts) for cluster, number in places]
        written = await gather(writer.ask(question) for question in questions)
        rows: list[Candidate] = []
        dropped: list[Dropped] = []
        quarantined: list[Quarantined] = []
        for (cluster, number), question, one in zip(places, questions, written, strict=True):
            if isinstance(one, Unusable):
                quarantined.append(one.quarantined)
            elif isinstance(one, Skip):
                reason = Reason.SKIPPED_BY_MODEL
                dropped.append(Dropped(item=question.item, reason=reason, detail=one.reason))
            else:
                rows.append(_candidate(cluster, number, one))
        return Outcome(rows=tuple(rows), dropped=tuple(dropped), quarantined=tuple(quarantined))

    def _question(
        self, item: DocumentItem[Cluster], cluster: Cluster, number: int, prompts: PromptMaker
    ) -> Question[Written | Skip]:
        passages = [item.chunks[chunk_id] for chunk_id in cluster.chunk_ids]
        values = {"passages": numbered(passages), "candidate": str(number + 1)}
        seed = hash_of("generate", self.seed, item.document_id, cluster.cluster_id, number)
        return Question(
            item=f"{item.document_id[:12]}/{cluster.cluster_id}/{number}",
            prompt=prompts.make(values, seed=self.seed),
            seed=int(seed[:8], 16),
            read=lambda content: self._read(content, len(passages)),
        )

    def _read(self, content: Mapping[str, Any], num_passages: int) -> Written | Skip:
        if content.keys() == {"skip"}:
            return Skip(reason=text_of(content, "skip"))
        only_keys(content, ["question", "answer", "evidence", "explanation"])
        question, answer = text_of(content, "question"), text_of(content, "answer")
        if _MENTIONS_PASSAGES.search(question):
            raise WrongContent("the question speaks of passages")
        if len(answer.split()) > self.config.max_answer_words:
            raise WrongContent(f"the answer has more than {self.config.max_answer_words} words")
        return Written(
            question=question,
            answer=answer,
            explanation=text_of(content, "explanation"),
            numbers=self._numbers(content["evidence"], num_passages),
        )

    def _numbers(self, evidence: object, num_passages: int) -> tuple[int, ...]:
        if not isinstance(evidence, list):
            raise TypeError("evidence is no list")
        numbers = sorted(whole_number(number, "evidence") for number in evidence)
        if len(set(numbers)) < len(numbers):
            raise WrongContent(f"evidence names a passage twice: {numbers}")
        if numbers and not 1 <= numbers[0] <= numbers[-1] <= num_passages:
            raise WrongContent(f"evidence {numbers} is not among passages 1 to {num_passages}")
        if len(numbers) < self.config.min_evidence:
            raise WrongContent(f"evidence {numbers} is below min_evidence")
        return tuple(numbers)

    def _prompts(self) -> PromptMaker:
        return PromptMaker(
            self.config.template,
            QUESTION_FORM,
            fields=QUESTION_FIELDS,
            constants={
                "min_evidence": self.config.min_evidence,
                "max_answer_words": self.config.max_answer_words,
            },
            key="generate.template",
        )


def _candidate(cluster: Cluster, number: int, written: Written) -> Candidate:
    return Candidate(
        document_index=cluster.document_index,
        document_id=cluster.document_id,
        cluster_id=cluster.cluster_id,
        candidate_id=number,
        question=written.question,
        answer=written.answer,
        explanation=written.explanation,
        # The model saw passages 1, 2, ... of its cluster; training speaks of the document's chunks.
        evidence_chunk_ids=tuple(cluster.chunk_ids[place - 1] for place in written.numbers),
        shown_chunk_ids=cluster.chunk_ids,
    )
