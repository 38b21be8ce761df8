"""Sample files: everything comes back as it was written, and half a file is never seen."""

import json
import math

import pytest

from megatron_longrlvr.observability.samples import (
    SampleRecord,
    list_samples,
    read_samples,
    samples_path,
    write_samples,
)
from tests.unit.observability.builders import scored_sample

AWKWARD_TEXT = 'two\nlines, a "quote", <answer>\u2028line separator, \u00e9\t\x00\x85 end'


def test_sample_comes_back_with_its_prompt(tmp_path):
    scored = scored_sample(reward=0.5, answer=1.0, cited=(2, 2, 9), text=AWKWARD_TEXT, num_tokens=4)
    path = write_samples(samples_path(tmp_path, 12), [scored], step=12)
    assert path == tmp_path / "samples" / "step_000012.jsonl"
    assert read_samples(path) == [
        SampleRecord(
            step=12,
            prompt_id="p0",
            sample_index=0,
            question="which?",
            chunks=["zero", "one", "two", "three"],
            evidence_chunk_ids=[1, 2],
            cited_chunk_ids=[2, 2, 9],
            answer="42",
            reference_answers=["42", "forty-two"],
            reward=0.5,
            reward_parts={
                "answer": 1.0,
                "context_f_beta": 0.0,
                "context_precision": 0.0,
                "context_recall": 0.0,
                "format_ok": 1.0,
            },
            response_text=AWKWARD_TEXT,
            num_response_tokens=4,
            finish_reason="stop",
            policy_version=11,
            parse_outcome="ok",
            is_valid=True,
        )
    ]


def test_lone_surrogate_in_a_response_survives(tmp_path):
    # Byte-level tokenizers can decode to text that no encoding accepts.
    path = write_samples(samples_path(tmp_path, 1), [scored_sample(text="half \ud83d")], step=1)
    assert read_samples(path)[0].response_text == "half \ud83d"


def test_files_are_listed_in_the_order_of_steps(tmp_path):
    for step in (1000000, 2, 10):
        write_samples(samples_path(tmp_path, step), [scored_sample()], step=step)
    assert list_samples(tmp_path) == [samples_path(tmp_path, step) for step in (2, 10, 1000000)]


def test_run_without_samples_lists_none(tmp_path):
    assert list_samples(tmp_path) == []


def test_failed_write_leaves_the_earlier_file(tmp_path):
    path = write_samples(samples_path(tmp_path, 1), [scored_sample(text="first")], step=1)
    broken = scored_sample(reward=object())
    with pytest.raises(TypeError):
        write_samples(samples_path(tmp_path, 1), [scored_sample(text="second"), broken], step=1)
    assert [record.response_text for record in read_samples(path)] == ["first"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("line", ["{", "[]", '{"step": 1}'], ids=["cut", "list", "keys"])
def test_line_that_is_no_sample_is_named(tmp_path, line):
    path = write_samples(samples_path(tmp_path, 1), [scored_sample()], step=1)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"step_000001\.jsonl:2 is not"):
        read_samples(path)


@pytest.mark.parametrize("value", [None, 7.5, math.nan, True, "x", [None], {"a": "b"}], ids=str)
@pytest.mark.parametrize(
    "name", ["question", "chunks", "cited_chunk_ids", "reward", "reward_parts", "step"]
)
def test_value_of_another_kind_is_named_with_its_line(tmp_path, name, value):
    path = write_samples(samples_path(tmp_path, 1), [scored_sample()], step=1)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {name: value}) + "\n")
    if (name, value) in [("question", "x"), ("reward", 7.5)]:
        assert read_samples(path)
        return
    with pytest.raises(ValueError, match=rf"step_000001\.jsonl:1 is not a sample: {name} hold"):
        read_samples(path)


@pytest.mark.parametrize("line", [b"\xff", b"[" * 100_000], ids=["encoding", "nesting"])
def test_line_that_no_reader_takes_is_named(tmp_path, line):
    path = samples_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=r"step_000001\.jsonl:1 is not JSON"):
        read_samples(path)
