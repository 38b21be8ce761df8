"""``samples/step_000012.jsonl``: what the policy wrote and what each response earned.

Beside the samples of training steps lie those of held-out measurements, ``heldout_000012.jsonl``;
``alarms/step_000012.jsonl`` has examples of what raised an alarm.

One JSON object per sample. A line holds its whole prompt, so that it can be read alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from megatron_longrlvr.data.strict_json import is_number
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.stages import ScoredSample

SAMPLES_DIR = "samples"
ALARMS_DIR = "alarms"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRecord:
    """One scored response with the prompt it answers."""

    step: int
    prompt_id: str
    sample_index: int
    """Place within its group, from 0."""

    question: str
    chunks: Sequence[str]
    """The index is the chunk id."""

    evidence_chunk_ids: Sequence[int]
    """Sorted."""

    cited_chunk_ids: Sequence[int]
    """As written: in order, with repeats."""

    answer: str | None
    reference_answers: Sequence[str]
    reward: float
    reward_parts: Mapping[str, float]
    response_text: str
    num_response_tokens: int
    finish_reason: str
    policy_version: int
    parse_outcome: str
    is_valid: bool
    """False where no reward could be found out."""

    verdict: str | None = None
    """Of the judge: yes, no or none; null where no judge was asked."""

    verdict_reason: str = ""
    """Why the verdict is none."""

    alarms: Sequence[str] = field(default_factory=list)
    """Kinds of attempt to influence the judge."""

    suspicions: Sequence[str] = field(default_factory=list)
    """What the response looks like that rewards should not pay for; ``observability/alarms.py``."""


def samples_path(run_dir: Path, step: int) -> Path:
    """File that holds the samples of a training step."""
    return run_dir / SAMPLES_DIR / f"step_{step:06d}.jsonl"


def heldout_path(run_dir: Path, step: int) -> Path:
    """File that holds samples of the measurement after a step."""
    return run_dir / SAMPLES_DIR / f"heldout_{step:06d}.jsonl"


def alarms_path(run_dir: Path, step: int) -> Path:
    """File that holds examples of the alarms of a step."""
    return run_dir / ALARMS_DIR / f"step_{step:06d}.jsonl"


def list_samples(run_dir: Path) -> list[Path]:
    """Sample files of training steps, in the order of steps."""
    return sorted((run_dir / SAMPLES_DIR).glob("step_*.jsonl"))


def list_heldout(run_dir: Path) -> list[Path]:
    """Sample files of held-out measurements, in the order of steps."""
    return sorted((run_dir / SAMPLES_DIR).glob("heldout_*.jsonl"))


def list_alarms(run_dir: Path) -> list[Path]:
    """Files with examples of alarms, in the order of steps."""
    return sorted((run_dir / ALARMS_DIR).glob("step_*.jsonl"))


def write_samples(
    path: Path,
    scored: Sequence[ScoredSample],
    *,
    step: int,
    suspect: Callable[[ScoredSample], Sequence[str]] = lambda _: (),
) -> Path:
    """Write the samples of all ranks; one rank calls this.

    Args:
        path: One of the three above.
        scored: In the order of the file.
        step: That they belong to.
        suspect: What a sample looks like.

    Returns:
        The file, complete or not there at all.
    """
    records = (to_record(one, step=step, suspicions=suspect(one)) for one in scored)
    # ASCII, because a tokenizer can decode to halves of surrogate pairs, which no file takes.
    lines = (json.dumps(asdict(record)) + "\n" for record in records)
    write_atomically(path, "".join(lines))
    return path


def read_samples(path: Path) -> list[SampleRecord]:
    """Read a file that :func:`write_samples` wrote.

    Raises:
        ValueError: A line is not a sample; names file and line.
    """
    # As bytes, so that a line in another encoding can be named.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def to_record(scored: ScoredSample, *, step: int, suspicions: Sequence[str] = ()) -> SampleRecord:
    """Flatten a scored sample and its prompt."""
    sample = scored.sample
    prompt = sample.prompt
    return SampleRecord(
        step=step,
        prompt_id=prompt.prompt_id,
        sample_index=sample.sample_index,
        question=prompt.question,
        chunks=list(prompt.chunks),
        evidence_chunk_ids=sorted(prompt.evidence_chunk_ids),
        cited_chunk_ids=list(scored.cited_chunk_ids),
        answer=scored.answer,
        reference_answers=list(prompt.reference_answers),
        reward=scored.reward,
        reward_parts=dict(scored.reward_parts),
        response_text=sample.text,
        num_response_tokens=len(sample.token_ids),
        finish_reason=sample.finish_reason.value,
        policy_version=sample.policy_version,
        parse_outcome=scored.parse_outcome,
        is_valid=scored.is_valid,
        verdict=None if scored.judgement is None else scored.judgement.verdict.value,
        verdict_reason="" if scored.judgement is None else scored.judgement.reason,
        alarms=list(scored.alarms),
        suspicions=list(suspicions),
    )


def _parse(line: bytes, place: str) -> SampleRecord:
    try:
        content: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    known = fields(SampleRecord)
    expected = {one.name for one in known}
    required = {
        one.name for one in known if one.default is MISSING and one.default_factory is MISSING
    }
    if not isinstance(content, dict) or not required <= content.keys() <= expected:
        keys = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{place} is not a sample: got {keys}, expected {sorted(expected)}")
    wrong = [one.name for one in known if one.name in content and not _is_of(one, content)]
    if wrong:
        raise ValueError(f"{place} is not a sample: {', '.join(wrong)} hold another kind of value")
    return SampleRecord(**content)


def _is_list(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(type(one) is kind for one in value)


_IS_KIND: Mapping[str, Callable[[Any], bool]] = {
    "int": lambda value: type(value) is int,
    "float": is_number,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "str | None": lambda value: value is None or isinstance(value, str),
    "Sequence[int]": _is_list(int),
    "Sequence[str]": _is_list(str),
    "Mapping[str, float]": lambda value: (
        isinstance(value, dict) and all(map(is_number, value.values()))
    ),
}
"""Whether a value is of a field's type, by that type as it is written."""


def _is_of(one: Field[Any], content: Mapping[str, Any]) -> bool:
    return _IS_KIND[str(one.type)](content[one.name])
