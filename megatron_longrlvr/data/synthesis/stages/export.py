"""export: the training file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_longrlvr.config.synthesis import ExportConfig
from megatron_longrlvr.data.audit.question_sketch import match_questions, sketch_questions
from megatron_longrlvr.data.audit.words import split_words
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.synthesis.documents import DocumentItem, iter_document_items
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.rows import (
    ExtraInfo,
    MeasuredQuestion,
    Message,
    RewardModel,
    TrainingRow,
)
from megatron_longrlvr.data.synthesis.stage import Desk
from megatron_longrlvr.data.synthesis.stages.read import tokenizer_hash
from megatron_longrlvr.data.synthesis.workspace import Workspace
from megatron_longrlvr.data.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class ExportStage:
    """Writes verl's schema, in document order, without questions that repeat others."""

    config: ExportConfig
    tokenizer: str

    name = "export"
    record = TrainingRow
    inputs = ("evidence", "chunk", "dedup")
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        return {
            "data_source": self.config.data_source,
            "max_prompt_tokens": self.config.max_prompt_tokens,
            "tokenizer": tokenizer_hash(self.tokenizer),
            # The instruction around document and question belongs to the rows too.
            "prompt": hash_of(render_prompt(chunks=["a"], question="b")),
        }

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("evidence")

    def run(self, desk: Desk) -> None:
        tokenizer = load_tokenizer(Path(self.tokenizer))
        repeated = _repeated_questions(desk)
        for item in iter_document_items(desk.workspace, "evidence", MeasuredQuestion):
            name = item.rows[0].scored.candidate.name
            if name in repeated:
                reason = Reason.NEAR_DUPLICATE_QUESTION
                drop = Dropped(item=name, reason=reason, detail=f"of {repeated[name]}")
                desk.take(Outcome(dropped=(drop,)))
            else:
                desk.take(self._write(item, tokenizer))

    def _write(self, item: DocumentItem[MeasuredQuestion], tokenizer: Tokenizer) -> Outcome:
        (measured,) = item.rows
        candidate = measured.scored.candidate
        text = render_prompt(chunks=item.chunks, question=candidate.question)
        message = Message(role="user", content=text)
        num_tokens = len(tokenizer.encode(tokenizer.render_messages([asdict(message)])))
        if num_tokens > self.config.max_prompt_tokens:
            reason = Reason.PROMPT_TOO_LONG
            drop = Dropped(item=candidate.name, reason=reason, detail=f"{num_tokens} tokens")
            return Outcome(dropped=(drop,))
        row = TrainingRow(
            data_source=self.config.data_source,
            prompt=(message,),
            reward_model=RewardModel(style="rule", ground_truth=candidate.answer),
            extra_info=_extra_info(item, measured),
        )
        return Outcome(rows=(row,))


def _extra_info(item: DocumentItem[MeasuredQuestion], measured: MeasuredQuestion) -> ExtraInfo:
    candidate = measured.scored.candidate
    return ExtraInfo(
        index=candidate.document_id,
        question=candidate.question,
        ref_chunks=candidate.evidence_chunk_ids,
        ref_chunks_text=tuple(item.chunks[chunk_id] for chunk_id in candidate.evidence_chunk_ids),
        explanation=candidate.explanation,
        source=item.document.source,
        document_id=candidate.document_id,
        score=measured.scored.score,
        closed_book_right_frac=measured.num_closed_book_right / max(measured.num_closed_book, 1),
        document_right_frac=measured.num_document_right / max(measured.num_document, 1),
    )


def _repeated_questions(desk: Desk) -> Mapping[str, str]:
    """Names of candidates whose question nearly repeats an earlier one, with its name."""
    candidates = [row.scored.candidate for row in desk.rows("evidence", MeasuredQuestion)]
    questions = [" ".join(split_words(candidate.question)) for candidate in candidates]
    if not questions:
        return {}
    _, matches = match_questions(questions, sketch_questions(questions), num_eval=0)
    return {
        candidates[place].name: candidates[match.earlier].name for place, match in matches.items()
    }
