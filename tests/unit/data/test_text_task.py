"""Questions about real text: the evidence is where the record says, and nowhere else.

Promise: every record is read by the data loader as it is; a planted answer stands in its evidence
chunks and in no other chunk, and a cloze word in its one chunk alone; the same seed gives the same
records.
"""

import re
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from megatron_longrlvr.data.records import parse_record
from megatron_longrlvr.data.text_task import TextTaskSettings, text_records
from megatron_longrlvr.errors import DataError

TEXTS = [topics[name] for name in sorted(topics)[:30]]
SETTINGS = TextTaskSettings(num_chunks=6, chunk_tokens=60)
COUNT = 60


def count_words(text):
    return len(text.split())


def records(*, seed=0, settings=SETTINGS, texts=TEXTS):
    found = text_records(texts, settings=settings, count_tokens=count_words, seed=seed)
    return list(islice(found, COUNT))


@pytest.fixture(scope="module")
def parsed():
    return [
        parse_record(record, path=Path("train.jsonl"), number=number)
        for number, record in enumerate(records(), start=1)
    ]


def is_planted(record):
    return "crates marked" in record.question


def test_both_kinds_are_asked_about_documents_of_the_right_size(parsed):
    kinds = [is_planted(record) for record in parsed]
    assert 0 < sum(kinds) < COUNT
    assert {len(record.chunks) for record in parsed} == {6}


def test_planted_answers_stand_in_the_evidence_alone(parsed):
    for record in filter(is_planted, parsed):
        names = re.findall(r"marked (\w+) and (\w+) weigh", record.question)[0]
        weights = record.reference_answers[0].split(" and ")
        told = {}
        for chunk_id, chunk in enumerate(record.chunks):
            for name, weight in re.findall(r"crate marked (\w+) weighs (\d+) kilograms", chunk):
                assert name not in told, "a crate is weighed twice"
                told[name] = (chunk_id, weight)
        assert [told[name][1] for name in names] == weights
        assert {told[name][0] for name in names} == record.evidence_chunk_ids
        assert len(told) == SETTINGS.num_planted


def test_cloze_words_stand_in_the_evidence_alone(parsed):
    for record in (record for record in parsed if not is_planted(record)):
        (word,) = record.reference_answers
        holders = [
            chunk_id
            for chunk_id, chunk in enumerate(record.chunks)
            if re.search(rf"\b{word}\b", chunk.lower())
        ]
        assert holders == list(record.evidence_chunk_ids)
        sentence = record.question.split("? ", 1)[1].replace("____", word)
        assert sentence in re.sub(r"\s+", " ", record.chunks[holders[0]])
        assert not re.search(rf"\b{word}\b", record.question)


def test_seed_decides_the_records():
    assert records(seed=3) == records(seed=3)
    assert records(seed=3) != records(seed=4)


def test_texts_too_short_for_a_document_are_refused():
    with pytest.raises(DataError, match="no text holds 6 chunks of 60 tokens"):
        records(texts=["A short text."])


def test_more_evidence_than_crates_is_refused():
    with pytest.raises(ValueError, match="num_evidence=3, num_planted=2"):
        TextTaskSettings(num_evidence=3, num_planted=2)
