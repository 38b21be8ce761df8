"""score: each candidate's ratings by a model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.config.synthesis import ChatModelConfig, ScoreConfig
from megatron_longrlvr.data.synthesis.documents import DocumentItem, iter_document_items
from megatron_longrlvr.data.synthesis.kept import Part
from megatron_longrlvr.data.synthesis.language_model import (
    LanguageModel,
    Question,
    WrongContent,
    model_settings,
    only_keys,
    whole_number,
)
from megatron_longrlvr.data.synthesis.outcome import Outcome, Quarantined
from megatron_longrlvr.data.synthesis.prompts import (
    RATING_FIELDS,
    RATING_FORM,
    PromptMaker,
    numbered,
)
from megatron_longrlvr.data.synthesis.rows import Candidate, ScoredCandidate
from megatron_longrlvr.data.synthesis.stage import Desk, Unusable, gather, run_requests
from megatron_longrlvr.data.synthesis.workspace import Workspace

RATINGS = ("clarity", "correctness", "evidence")
_BEST = 10


@dataclass(frozen=True, kw_only=True)
class ScoreStage:
    """Rates each candidate by itself; one without a usable rating is quarantined."""

    config: ScoreConfig
    model: ChatModelConfig
    seed: int

    name = "score"
    record = ScoredCandidate
    inputs = ("generate", "chunk", "dedup")
    keeps_for_good = True

    def settings(self) -> Mapping[str, Part]:
        return {
            "model": model_settings(self.model),
            "template": self._prompts().version,
            "seed": self.seed,
        }

    def count_items(self, workspace: Workspace) -> int:
        return len({row.document_index for row in workspace.rows("generate", Candidate)})

    def run(self, desk: Desk) -> None:
        asyncio.run(self._run(desk))

    async def _run(self, desk: Desk) -> None:
        rater = LanguageModel(
            self.model, name=self.config.model, kept=desk.kept, progress=desk.progress
        )
        prompts = self._prompts()
        items = iter_document_items(desk.workspace, "generate", Candidate)
        try:
            await run_requests(
                items,
                lambda item: self._rate(item, rater, prompts),
                desk,
                num_ahead=1 + rater.max_concurrent,
            )
        finally:
            await rater.close()

    async def _rate(
        self, item: DocumentItem[Candidate], rater: LanguageModel, prompts: PromptMaker
    ) -> Outcome:
        ratings = await gather(
            rater.ask(self._question(item, candidate, prompts)) for candidate in item.rows
        )
        rows: list[ScoredCandidate] = []
        quarantined: list[Quarantined] = []
        for candidate, one in zip(item.rows, ratings, strict=True):
            if isinstance(one, Unusable):
                quarantined.append(one.quarantined)
                continue
            rows.append(
                ScoredCandidate(
                    document_index=candidate.document_index,
                    candidate=candidate,
                    clarity=one["clarity"],
                    correctness=one["correctness"],
                    evidence=one["evidence"],
                    score=sum(one.values()) / len(one),
                )
            )
        return Outcome(rows=tuple(rows), quarantined=tuple(quarantined))

    def _question(
        self, item: DocumentItem[Candidate], candidate: Candidate, prompts: PromptMaker
    ) -> Question[dict[str, int]]:
        shown = candidate.shown_chunk_ids
        values = {
            "passages": numbered([item.chunks[chunk_id] for chunk_id in shown]),
            "question": candidate.question,
            "answer": candidate.answer,
            "evidence": ", ".join(
                str(shown.index(chunk_id) + 1) for chunk_id in candidate.evidence_chunk_ids
            ),
        }
        return Question(
            item=candidate.name,
            prompt=prompts.make(values, seed=self.seed),
            seed=self.seed,
            read=read_ratings,
        )

    def _prompts(self) -> PromptMaker:
        return PromptMaker(
            self.config.template,
            RATING_FORM,
            fields=RATING_FIELDS,
            constants={},
            key="score.template",
        )


def read_ratings(content: Mapping[str, Any]) -> dict[str, int]:
    """Three whole numbers from 1 to 10; nothing is clamped and nothing guessed."""
    only_keys(content, RATINGS)
    ratings = {name: whole_number(content[name], name) for name in RATINGS}
    for name, rating in ratings.items():
        if not 1 <= rating <= _BEST:
            raise WrongContent(f"{name} {rating} is not from 1 to 10")
    return ratings
