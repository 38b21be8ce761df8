"""Formats of files of model outputs: how each is recognised and read.

    ruler          {index, outputs: [text], pred, task?, ctx?, evidence_chunk_ids?}
    longbench_v2   {id or _id, answer, response, difficulty or choice_A or choices, judge?}
    longreason     {id, answer, response, split?, judge?}                 answer is a letter
    samples        the package's own samples/*.jsonl
    mapped         any other, by fields that the person names

Where a file says ``pub_judge`` rather than ``judge``, that is read. What a model wrote may be
anything: null counts as an empty response, and what is no text is scored as its JSON. What an
annotator wrote, such as the reference, must be right.

Paper: RULER, arXiv:2404.06654; LongBench v2, arXiv:2412.15204; LongReason, arXiv:2501.15089.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.data.strict_json import is_number
from megatron_longrlvr.evaluation.scoring.output import ModelOutput

Record = Mapping[str, Any]

_LETTER = re.compile(r"[A-J]")
_SAMPLE_FIELDS = frozenset({"response_text", "reference_answers"})

MAPPED_ROLES = ("response", "reference", "id", "cell", "evidence", "stored")
"""What a person may map a field to; the first two are required."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFormat:
    """A format's name and its reader."""

    name: str
    read: Callable[[Record, str], ModelOutput]
    """From a record and the name of the place it came from, used where it has no id or cell.
    Raises ValueError, naming the field."""


def detect_format(record: Record) -> OutputFormat:
    """Recognise the format by the fields of a file's first record.

    Raises:
        ValueError: No known format has these fields.
    """
    names = record.keys()
    if names >= _SAMPLE_FIELDS:
        return OutputFormat(name="samples", read=_read_sample)
    if names >= {"outputs", "pred"}:
        return OutputFormat(name="ruler", read=_read_ruler)
    if names >= {"answer", "response"}:
        if names & {"difficulty", "choice_A", "choices"}:
            return OutputFormat(name="longbench_v2", read=_read_longbench)
        if isinstance(record["answer"], str) and _LETTER.fullmatch(record["answer"].strip()):
            return OutputFormat(name="longreason", read=_read_longreason)
    raise ValueError(
        f"no known format has the fields {sorted(names)}; name them, for example "
        "--field response=output --field reference=target"
    )


def mapped_format(field_by_role: Mapping[str, str]) -> OutputFormat:
    """Format of records whose fields a person has named.

    Args:
        field_by_role: Field by role, see ``MAPPED_ROLES``; ``a.b`` is a field within a field.

    Raises:
        ValueError: A role is unknown, or response or reference is not named.
    """
    unknown = sorted(field_by_role.keys() - set(MAPPED_ROLES))
    missing = [role for role in MAPPED_ROLES[:2] if role not in field_by_role]
    if unknown or missing:
        raise ValueError(
            f"--field ROLE=NAME: unknown roles {unknown}, missing roles {missing}; known are "
            f"{', '.join(MAPPED_ROLES)}"
        )
    return OutputFormat(name="mapped", read=_MappedReader(dict(field_by_role)))


@dataclass(frozen=True, slots=True)
class _MappedReader:
    """A class rather than a closure, so that worker processes can be sent it."""

    field_by_role: dict[str, str]

    def __call__(self, record: Record, place: str) -> ModelOutput:
        values = {role: _nested(record, name) for role, name in self.field_by_role.items()}
        text, defects = _response(values["response"])
        item_id = values.get("id")
        return ModelOutput(
            cell=str(values.get("cell", "all")),
            item_id=place if item_id is None else str(item_id),
            text=text,
            references=_references(values["reference"], self.field_by_role["reference"]),
            evidence_chunk_ids=_evidence(values.get("evidence")),
            stored=_stored(values.get("stored")),
            defects=defects,
        )


def _read_ruler(record: Record, place: str) -> ModelOutput:
    text, defects = _response(_required(record, "pred"))
    task, context_tokens = record.get("task", place.split(":")[0]), record.get("ctx")
    return ModelOutput(
        cell=str(task) if context_tokens is None else f"{task}/{context_tokens}",
        item_id=str(record.get("index", place)),
        text=text,
        references=_references(_required(record, "outputs"), "outputs"),
        evidence_chunk_ids=_evidence(record.get("evidence_chunk_ids")),
        defects=defects,
    )


def _read_longbench(record: Record, place: str) -> ModelOutput:
    return _read_choice(record, place, cell="all")


def _read_longreason(record: Record, place: str) -> ModelOutput:
    return _read_choice(record, place, cell=str(record.get("split", "all")))


def _read_choice(record: Record, place: str, *, cell: str) -> ModelOutput:
    text, defects = _response(_required(record, "response"))
    (letter,) = _references(_required(record, "answer"), "answer")
    if not _LETTER.fullmatch(letter.strip()):
        raise ValueError(f"answer must be an option letter, got {letter!r}")
    return ModelOutput(
        cell=cell,
        item_id=str(record.get("id", record.get("_id", place))),
        text=text,
        references=(letter.strip(),),
        stored=_stored(record.get("pub_judge", record.get("judge"))),
        defects=defects,
    )


def _read_sample(record: Record, place: str) -> ModelOutput:
    text, defects = _response(_required(record, "response_text"))
    parts = record.get("reward_parts")
    return ModelOutput(
        cell=str(record.get("cell", "all")),
        item_id=str(record.get("prompt_id", place)),
        text=text,
        references=_references(_required(record, "reference_answers"), "reference_answers"),
        evidence_chunk_ids=_evidence(record.get("evidence_chunk_ids")),
        stored=_stored(parts.get("answer")) if isinstance(parts, dict) else None,
        defects=defects,
    )


def _response(value: object) -> tuple[str, tuple[str, ...]]:
    if isinstance(value, str):
        return value, ()
    if value is None:
        return "", ("no_response",)
    return json.dumps(value, ensure_ascii=False), ("not_text",)


def _references(value: object, name: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    read = [str(text) if is_number(text) else text for text in texts]
    references = tuple(text for text in read if isinstance(text, str) and text.strip())
    if not texts or len(references) < len(texts):
        raise ValueError(f"{name} must be a text or a list of texts, none empty; got {value!r:.80}")
    return references


def _evidence(value: object) -> frozenset[int] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(type(chunk_id) is int for chunk_id in value):
        raise ValueError(f"evidence must be a list of chunk ids, got {value!r:.80}")
    return frozenset(value)


def _stored(value: object) -> float | None:
    # A verdict that is no number is no verdict; the outputs can be scored all the same.
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return None


def _required(record: Record, name: str) -> object:
    if name not in record:
        raise ValueError(f"the field {name!r} is missing; it has {sorted(record)}")
    return record[name]


def _nested(record: Record, dotted: str) -> object:
    value: object = record
    for name in dotted.split("."):
        value = _required(value if isinstance(value, dict) else {}, name)
    return value
