"""LongBench v2: questions with four options, from the benchmark's own records.

    {_id, domain, sub_domain, difficulty, length, question, choice_A .. choice_D, answer, context}

Paper: LongBench v2, arXiv:2412.15204.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_longrlvr.config.benchmark import LongBenchV2Config
from megatron_longrlvr.evaluation.benchmarks.files import (
    id_field,
    iter_records,
    letter_field,
    text_field,
)
from megatron_longrlvr.evaluation.benchmarks.question import Question

_OPTIONS = "ABCD"
_KEPT = ("domain", "sub_domain", "difficulty", "length")


def longbench_questions(config: LongBenchV2Config) -> Iterator[Question]:
    """Read the questions.

    Raises:
        DataError: A record lacks a field; names file, record and field.
    """
    for place, record in iter_records(Path(config.path)):
        item_id = id_field(record, "_id", place=place)
        answer = letter_field(record, "answer", place=place)
        options = [
            f"({letter}) {text_field(record, f'choice_{letter}', place=place)}"
            for letter in _OPTIONS
        ]
        asked = text_field(record, "question", place=place)
        yield Question(
            place=place,
            prompt_id=item_id,
            documents=(text_field(record, "context", place=place),),
            # The published rule looks for these words.
            text="\n".join([asked, *options, 'Answer with "The correct answer is (X)".']),
            references=(answer,),
            evidence=None,
            output_fields={
                "_id": item_id,
                "answer": answer,
                # Text in the published file; of another kind it still says what it was.
                "difficulty": "",
                **{name: str(record[name]) for name in _KEPT if name in record},
            },
            response_field="response",
        )
