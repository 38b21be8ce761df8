"""Formats: recognised by their fields, read into one form, refused with the field's name."""

import math

import pytest

from megatron_longrlvr.evaluation.scoring.formats import detect_format, mapped_format
from tests.unit.evaluation.scoring.outputs import LONGBENCH, LONGREASON, RULER, SAMPLE


@pytest.mark.parametrize(
    ("record", "name", "cell", "item_id"),
    [
        pytest.param(RULER, "ruler", "qa_1/4096", "0", id="ruler"),
        pytest.param(LONGBENCH, "longbench_v2", "all", "a", id="longbench"),
        pytest.param(LONGREASON, "longreason", "32k", "a", id="longreason"),
        pytest.param(SAMPLE, "samples", "all", "p", id="samples"),
    ],
)
def test_format_is_recognised_and_read(record, name, cell, item_id):
    found = detect_format(record)
    output = found.read(record, "file.jsonl:1")
    assert (found.name, output.cell, output.item_id) == (name, cell, item_id)


def test_samples_bring_evidence_and_their_own_verdict():
    output = detect_format(SAMPLE).read(SAMPLE, "f:1")
    assert output.evidence_chunk_ids == {0, 1}
    assert output.stored == 1.0


@pytest.mark.parametrize("field", ["judge", "pub_judge"])
def test_stored_verdict_of_a_benchmark_is_read(field):
    assert detect_format(LONGBENCH).read({**LONGBENCH, field: True}, "f:1").stored == 1.0


def test_ruler_files_without_a_task_are_told_apart_by_the_file():
    record = {"index": 0, "outputs": ["x"], "pred": "x"}
    assert detect_format(record).read(record, "runs/qa_2.jsonl:7").cell == "runs/qa_2.jsonl"


@pytest.mark.parametrize(
    ("response", "text", "defects"),
    [
        pytest.param(None, "", ("no_response",), id="null"),
        pytest.param("", "", (), id="empty"),
        pytest.param(7, "7", ("not_text",), id="number"),
        pytest.param(["a", "\u00e9"], '["a", "\u00e9"]', ("not_text",), id="list"),
    ],
)
def test_whatever_the_model_wrote_is_read(response, text, defects):
    output = detect_format(RULER).read({**RULER, "pred": response}, "f:1")
    assert (output.text, output.defects) == (text, defects)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param({**RULER, "outputs": []}, "outputs must be a text or a list", id="none"),
        pytest.param({**RULER, "outputs": ["a", " "]}, "none empty", id="empty-reference"),
        pytest.param({**RULER, "outputs": [None]}, "outputs must be", id="null-reference"),
        pytest.param({**RULER, "outputs": [math.nan]}, "outputs must be", id="no-number"),
        pytest.param({**RULER, "outputs": math.inf}, "outputs must be", id="infinity"),
        pytest.param({**LONGBENCH, "answer": "Paris"}, "must be an option letter", id="no-letter"),
        pytest.param({**SAMPLE, "evidence_chunk_ids": ["1"]}, "list of chunk ids", id="evidence"),
    ],
)
def test_what_an_annotator_wrote_wrong_is_named(record, message):
    with pytest.raises(ValueError, match=message):
        detect_format(record).read(record, "f:1")


def test_record_without_a_field_of_its_format_is_refused():
    with pytest.raises(ValueError, match="'pred' is missing"):
        detect_format(RULER).read({"outputs": ["x"]}, "f:1")


def test_unknown_fields_are_listed_with_the_way_out():
    with pytest.raises(ValueError, match=r"\['output', 'target'\]; name them"):
        detect_format({"output": "x", "target": "y"})


def test_named_fields_are_read_also_within_fields():
    named = mapped_format({"response": "out.text", "reference": "gold", "id": "key", "cell": "n"})
    output = named.read({"out": {"text": "hm"}, "gold": 12, "key": 3, "n": 4096}, "f:1")
    assert (output.text, output.references, output.item_id) == ("hm", ("12",), "3")
    assert output.cell == "4096"


def test_named_field_that_is_absent_is_refused():
    named = mapped_format({"response": "out.text", "reference": "gold"})
    with pytest.raises(ValueError, match="'text' is missing"):
        named.read({"out": {}, "gold": "x"}, "f:1")


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        pytest.param({"response": "a"}, r"missing roles \['reference'\]", id="missing"),
        pytest.param({"response": "a", "reference": "b", "x": "c"}, r"roles \['x'\]", id="unknown"),
    ],
)
def test_wrong_roles_are_named(roles, message):
    with pytest.raises(ValueError, match=message):
        mapped_format(roles)
