"""difficulty: what a small model answers already, without the document and with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_longrlvr.config.synthesis import (
    AnswerCheckConfig,
    ChatModelConfig,
    DifficultyConfig,
)
from megatron_longrlvr.data.synthesis.answers import AnswerChecker, check_settings, read_answer
from megatron_longrlvr.data.synthesis.documents import DocumentItem, iter_document_items
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.language_model import (
    LanguageModel,
    Question,
    model_settings,
)
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.prompts import (
    ANSWER_FORM,
    CLOSED_BOOK_FIELDS,
    DOCUMENT_FIELDS,
    Prompt,
    PromptMaker,
)
from megatron_longrlvr.data.synthesis.rows import MeasuredQuestion, ScoredCandidate
from megatron_longrlvr.data.synthesis.stage import Desk, Unusable, gather, run_requests
from megatron_longrlvr.data.synthesis.stages.clean import as_part_of
from megatron_longrlvr.data.synthesis.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class DifficultyStage:
    """Asks a small model several times; without a configuration all questions pass."""

    config: DifficultyConfig | None
    answers: AnswerCheckConfig
    models: Mapping[str, ChatModelConfig]
    seed: int

    name = "difficulty"
    record = MeasuredQuestion
    inputs = ("select", "chunk", "dedup")
    keeps_for_good = True

    def settings(self) -> Mapping[str, Part]:
        if self.config is None:
            return {}
        closed_book, document = prompts_of(self.config)
        return {
            **as_part_of(self.config.model_dump(mode="json")),
            "model": model_settings(self.models[self.config.model]),
            "templates": [closed_book.version, document.version],
            "answers": check_settings(self.answers),
            "seed": self.seed,
        }

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("select")

    def run(self, desk: Desk) -> None:
        if self.config is None:
            for row in desk.rows("select", ScoredCandidate):
                desk.take(Outcome(rows=(_measured(row, [], []),)))
            return
        asyncio.run(self._run(desk, self.config))

    async def _run(self, desk: Desk, config: DifficultyConfig) -> None:
        model = LanguageModel(
            self.models[config.model], name=config.model, kept=desk.kept, progress=desk.progress
        )
        trial = _Trial(
            config=config,
            model=model,
            checker=AnswerChecker(self.answers, desk.kept),
            seed=self.seed,
            prompts=prompts_of(config),
        )
        try:
            await run_requests(
                iter_document_items(desk.workspace, "select", ScoredCandidate),
                trial.measure,
                desk,
                num_ahead=1 + model.max_concurrent,
            )
        finally:
            await model.close()
            await trial.checker.close()


@dataclass(frozen=True, kw_only=True)
class _Trial:
    config: DifficultyConfig
    model: LanguageModel
    checker: AnswerChecker
    seed: int
    prompts: tuple[PromptMaker, PromptMaker]

    async def measure(self, item: DocumentItem[ScoredCandidate]) -> Outcome:
        (scored,) = item.rows
        question = scored.candidate.question
        closed_book, document = self.prompts
        asked = [
            (closed_book.make({"question": question}, seed=self.seed), attempt)
            for attempt in range(self.config.closed_book_attempts)
        ]
        values = {"question": question, "document": item.document.text}
        asked += [
            (document.make(values, seed=self.seed), attempt)
            for attempt in range(self.config.document_attempts)
        ]
        results = await gather(self._try(scored, *one) for one in asked)
        faults = [one.quarantined for one in results if isinstance(one, Unusable)]
        if faults:
            return Outcome(quarantined=tuple(faults))
        is_right = [one for one in results if not isinstance(one, Unusable)]
        num_closed = self.config.closed_book_attempts
        return self._decide(_measured(scored, is_right[:num_closed], is_right[num_closed:]))

    async def _try(self, scored: ScoredCandidate, prompt: Prompt, attempt: int) -> bool:
        candidate = scored.candidate
        seed = hash_of("difficulty", self.seed, candidate.name, attempt)
        answer = await self.model.ask(
            Question(item=candidate.name, prompt=prompt, seed=int(seed[:8], 16), read=read_answer)
        )
        return await self.checker.is_right(
            answer, question=candidate.question, reference=candidate.answer
        )

    def _decide(self, measured: MeasuredQuestion) -> Outcome:
        closed_book = _share(measured.num_closed_book_right, measured.num_closed_book)
        document = _share(measured.num_document_right, measured.num_document)
        reason = None
        if closed_book > self.config.max_closed_book_right:
            reason, share = Reason.TOO_EASY_CLOSED_BOOK, closed_book
        elif document > self.config.max_document_right:
            reason, share = Reason.TOO_EASY_WITH_DOCUMENT, document
        elif measured.num_document and document < self.config.min_document_right:
            reason, share = Reason.TOO_HARD_WITH_DOCUMENT, document
        if reason is None:
            return Outcome(rows=(measured,))
        name = measured.scored.candidate.name
        return Outcome(dropped=(Dropped(item=name, reason=reason, detail=f"right {share:.2f}"),))


def prompts_of(config: DifficultyConfig) -> tuple[PromptMaker, PromptMaker]:
    """Without the document, and with it."""
    closed_book = PromptMaker(
        config.closed_book_template,
        ANSWER_FORM,
        fields=CLOSED_BOOK_FIELDS,
        constants={},
        key="difficulty.closed_book_template",
    )
    document = PromptMaker(
        config.document_template,
        ANSWER_FORM,
        fields=DOCUMENT_FIELDS,
        constants={},
        key="difficulty.document_template",
    )
    return closed_book, document


def _measured(
    scored: ScoredCandidate, closed_book: list[bool], document: list[bool]
) -> MeasuredQuestion:
    return MeasuredQuestion(
        document_index=scored.document_index,
        scored=scored,
        num_closed_book_right=sum(closed_book),
        num_closed_book=len(closed_book),
        num_document_right=sum(document),
        num_document=len(document),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
