"""How likely a policy finds each of many answers to one document, which is computed once.

For questions with given options and for perplexity of references: no sampling, and a document of
64K tokens costs one forward pass, however many answers there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.stages import MicroBatch, Segment


def answer_logprobs(
    policy: Policy,
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    micro_batch_tokens: int | None = None,
) -> list[list[float]]:
    """Log-probabilities, in nats, of the tokens of each answer to a prompt.

    Collective: every rank of the policy's model calls it with the same tokens.

    Args:
        policy: Any layout.
        prompt: Token ids; at least one.
        answers: Token ids of each answer, none empty; they do not see each other.
        temperature: Logits are divided by it first.
        micro_batch_tokens: Budget of one forward pass; answers beyond it read the prompt in a
            further pass. None puts all of them into one.

    Returns:
        One list per answer, in order, on every rank.

    Raises:
        ValueError: The prompt or an answer is empty.
    """
    if not prompt:
        raise ValueError("the prompt is empty: nothing would predict the first token of an answer")
    for index, answer in enumerate(answers):
        if not answer:
            raise ValueError(f"answer {index} is empty")
    parts = _parts(len(prompt), answers, micro_batch_tokens)
    rows = [_row(prompt, part) for part in parts]
    found = policy.logprobs(rows, temperature=temperature)
    logprobs: list[list[float]] = []
    for row, values in zip(rows, found, strict=True):
        written = values[row.is_response].tolist()
        for segment in row.segments[1:]:
            logprobs.append(written[: segment.num_tokens])
            written = written[segment.num_tokens :]
    return logprobs


def _parts(
    prompt_tokens: int, answers: Sequence[Sequence[int]], budget: int | None
) -> list[list[Sequence[int]]]:
    parts: list[list[Sequence[int]]] = []
    size = 0
    for answer in answers:
        if not parts or (budget is not None and size + len(answer) > budget):
            parts.append([])
            size = prompt_tokens
        parts[-1].append(answer)
        size += len(answer)
    return parts


def _row(prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> MicroBatch:
    return unlearned_row(
        [*prompt, *(token for answer in answers for token in answer)],
        num_given=len(prompt),
        segments=[
            Segment(num_tokens=len(prompt)),
            *(Segment(num_tokens=len(answer), continues=0) for answer in answers),
        ],
        sample_ids=[f"answer {index}" for index in range(len(answers))],
    )
