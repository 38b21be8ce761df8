"""Scored samples with only the numbers that a test is about."""

from __future__ import annotations

from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    Prompt,
    Sample,
    ScoredBatch,
    ScoredSample,
)


def scored_sample(
    *,
    reward: float = 0.0,
    answer: float = 0.0,
    f_beta: float = 0.0,
    precision: float = 0.0,
    recall: float = 0.0,
    num_tokens: int = 3,
    cited: tuple[int, ...] = (),
    outcome: str = "ok",
    finish_reason: FinishReason = FinishReason.STOP,
    is_valid: bool = True,
    prompt_id: str = "p0",
    sample_index: int = 0,
    text: str = "response",
    chunks: tuple[str, ...] = ("zero", "one", "two", "three"),
    evidence: tuple[int, ...] = (1, 2),
    question: str = "which?",
    answer_text: str | None = "42",
) -> ScoredSample:
    prompt = Prompt(
        prompt_id=prompt_id,
        text="document and question",
        token_ids=[5, 6],
        question=question,
        chunks=list(chunks),
        evidence_chunk_ids=frozenset(evidence),
        reference_answers=["42", "forty-two"],
    )
    sample = Sample(
        prompt=prompt,
        sample_index=sample_index,
        token_ids=[7] * num_tokens,
        text=text,
        behavior_logprobs=[-0.5] * num_tokens,
        finish_reason=finish_reason,
        policy_version=PolicyVersion(11),
    )
    return ScoredSample(
        sample=sample,
        reward=reward,
        reward_parts={
            "answer": answer,
            "context_f_beta": f_beta,
            "context_precision": precision,
            "context_recall": recall,
            "format_ok": float(outcome == "ok"),
        },
        cited_chunk_ids=list(cited),
        answer=answer_text,
        parse_outcome=outcome,
        is_valid=is_valid,
    )


def scored_batch(*scored: ScoredSample, group_size: int = 2, step: int = 12) -> ScoredBatch:
    return ScoredBatch(step=step, group_size=group_size, scored=list(scored))
