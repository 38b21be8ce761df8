"""evidence: whether the answer rests on the evidence, on all of it, and on nothing known before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.config.synthesis import AnswerCheckConfig, ChatModelConfig, EvidenceConfig
from megatron_longrlvr.data.synthesis.answers import (
    AnswerChecker,
    check_settings,
    read_answer,
)
from megatron_longrlvr.data.synthesis.documents import DocumentItem, iter_document_items
from megatron_longrlvr.data.synthesis.kept import Part
from megatron_longrlvr.data.synthesis.language_model import (
    LanguageModel,
    Question,
    model_settings,
)
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.prompts import (
    ANSWER_FORM,
    CLOSED_BOOK_FIELDS,
    PASSAGES_FIELDS,
    Prompt,
    PromptMaker,
    numbered,
)
from megatron_longrlvr.data.synthesis.rows import Candidate, MeasuredQuestion
from megatron_longrlvr.data.synthesis.stage import Desk, Unusable, gather, run_requests
from megatron_longrlvr.data.synthesis.stages.clean import as_part_of
from megatron_longrlvr.data.synthesis.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class EvidenceStage:
    """Asks a strong model; without a configuration all questions pass."""

    config: EvidenceConfig | None
    answers: AnswerCheckConfig
    models: Mapping[str, ChatModelConfig]
    seed: int

    name = "evidence"
    record = MeasuredQuestion
    inputs = ("difficulty", "chunk", "dedup")
    keeps_for_good = True

    def settings(self) -> Mapping[str, Part]:
        if self.config is None:
            return {}
        passages, closed_book = prompts_of(self.config)
        return {
            **as_part_of(self.config.model_dump(mode="json")),
            "model": model_settings(self.models[self.config.model]),
            "templates": [passages.version, closed_book.version],
            "answers": check_settings(self.answers),
            "seed": self.seed,
        }

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("difficulty")

    def run(self, desk: Desk) -> None:
        if self.config is None:
            for row in desk.rows("difficulty", MeasuredQuestion):
                desk.take(Outcome(rows=(row,)))
            return
        asyncio.run(self._run(desk, self.config))

    async def _run(self, desk: Desk, config: EvidenceConfig) -> None:
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
                iter_document_items(desk.workspace, "difficulty", MeasuredQuestion),
                trial.examine,
                desk,
                num_ahead=1 + model.max_concurrent,
            )
        finally:
            await model.close()
            await trial.checker.close()


@dataclass(frozen=True, kw_only=True)
class _Trial:
    config: EvidenceConfig
    model: LanguageModel
    checker: AnswerChecker
    seed: int
    prompts: tuple[PromptMaker, PromptMaker]

    async def examine(self, item: DocumentItem[MeasuredQuestion]) -> Outcome:
        (measured,) = item.rows
        candidate = measured.scored.candidate
        evidence = candidate.evidence_chunk_ids
        checks = [_Check(prompt=self._with_chunks(item, evidence), is_right_wanted=True)]
        if self.config.leave_one_out:
            for left_out in evidence:
                rest = [chunk_id for chunk_id in evidence if chunk_id != left_out]
                checks.append(
                    _Check(
                        prompt=self._with_chunks(item, rest),
                        reason=Reason.EVIDENCE_NOT_NEEDED,
                        detail=f"answered without chunk {left_out}",
                    )
                )
        if self.config.closed_book:
            _, closed_book = self.prompts
            prompt = closed_book.make({"question": candidate.question}, seed=self.seed)
            checks.append(_Check(prompt=prompt, reason=Reason.ANSWERED_CLOSED_BOOK))
        # The first costs one request and decides for most that fail.
        for group in (checks[:1], checks[1:]):
            outcome = await self._decide(group, candidate)
            if outcome is not None:
                return outcome
        return Outcome(rows=(measured,))

    async def _decide(self, checks: Sequence[_Check], candidate: Candidate) -> Outcome | None:
        """What the checks do to a candidate; None where it passes them."""
        results = await gather(self._is_right(check.prompt, candidate) for check in checks)
        faults = [one.quarantined for one in results if isinstance(one, Unusable)]
        if faults:
            return Outcome(quarantined=tuple(faults))
        for check, is_right in zip(checks, results, strict=True):
            if is_right is not check.is_right_wanted:
                drop = Dropped(item=candidate.name, reason=check.reason, detail=check.detail)
                return Outcome(dropped=(drop,))
        return None

    async def _is_right(self, prompt: Prompt, candidate: Candidate) -> bool:
        answer = await self.model.ask(
            Question(item=candidate.name, prompt=prompt, seed=self.seed, read=read_answer)
        )
        return await self.checker.is_right(
            answer, question=candidate.question, reference=candidate.answer
        )

    def _with_chunks(
        self, item: DocumentItem[MeasuredQuestion], chunk_ids: Sequence[int]
    ) -> Prompt:
        passages, _ = self.prompts
        values = {
            "passages": numbered([item.chunks[chunk_id] for chunk_id in chunk_ids]),
            "question": item.rows[0].scored.candidate.question,
        }
        return passages.make(values, seed=self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    prompt: Prompt
    is_right_wanted: bool = False
    reason: Reason = Reason.NOT_ANSWERED_FROM_EVIDENCE
    """Of what fails it."""

    detail: str = ""


def prompts_of(config: EvidenceConfig) -> tuple[PromptMaker, PromptMaker]:
    """With some passages, and with nothing."""
    passages = PromptMaker(
        config.template,
        ANSWER_FORM,
        fields=PASSAGES_FIELDS,
        constants={},
        key="evidence.template",
    )
    closed_book = PromptMaker(
        config.closed_book_template,
        ANSWER_FORM,
        fields=CLOSED_BOOK_FIELDS,
        constants={},
        key="evidence.closed_book_template",
    )
    return passages, closed_book
