"""LongReason: reasoning questions with options over an expanded context.

    {example_idx, background, final_inquiry, answer, ...}, a file for each split

``background`` holds the context, ``final_inquiry`` the question with its options.

Paper: LongReason, arXiv:2501.15089.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_longrlvr.config.benchmark import LongReasonConfig
from megatron_longrlvr.evaluation.benchmarks.files import (
    id_field,
    iter_records,
    letter_field,
    text_field,
)
from megatron_longrlvr.evaluation.benchmarks.question import Question


def longreason_questions(config: LongReasonConfig) -> Iterator[Question]:
    """Read the questions of all splits.

    Raises:
        DataError: A record lacks a field; names file, record and field.
    """
    for split, name in config.paths.items():
        for place, record in iter_records(Path(name)):
            item_id = id_field(record, "example_idx", place=place)
            answer = letter_field(record, "answer", place=place)
            yield Question(
                place=place,
                prompt_id=f"{split}/{item_id}",
                documents=(text_field(record, "background", place=place),),
                text=text_field(record, "final_inquiry", place=place)
                + "\nAnswer with the letter of the option.",
                references=(answer,),
                evidence=None,
                output_fields={"id": item_id, "split": split, "answer": answer},
                response_field="response",
            )
