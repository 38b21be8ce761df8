"""Measuring blocks of lines: sturdy against what models write, exact about what is no record."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.scoring.formats import detect_format
from megatron_longrlvr.evaluation.scoring.lines import LineBlock
from megatron_longrlvr.evaluation.scoring.measure import measure, measure_block
from megatron_longrlvr.evaluation.scoring.output import ModelOutput
from megatron_longrlvr.evaluation.scoring.rules import RULES
from tests.unit.evaluation.scoring.outputs import RULER, SAMPLE


def measured(content, *, is_cut=False, first_line=1, record=RULER):
    block = LineBlock(content=content, first_line=first_line, is_cut=is_cut)
    return measure_block(block, path="f.jsonl", output_format=detect_format(record))


def line(**fields):
    return json.dumps({**RULER, **fields}).encode() + b"\n"


def test_blank_lines_and_carriage_returns_are_passed_over():
    content = b"\n" + line().replace(b"\n", b"\r\n") + b"  \r\n" + line()
    assert len(measured(content).measurements) == 2


def test_broken_utf8_in_a_response_is_scored():
    (one,) = measured(line(pred="Paris @").replace(b"@", b"\xff")).measurements
    assert one.scores["published"] == 1.0


def test_cut_last_line_is_left_out_and_reported():
    block = measured(line() + line()[:-20], is_cut=True)
    assert len(block.measurements) == 1
    assert block.is_last_line_cut


def test_whole_last_line_without_line_end_is_read():
    block = measured(line() + line()[:-1], is_cut=True)
    assert len(block.measurements) == 2
    assert not block.is_last_line_cut


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(line() + b"{broken\n" + line(), r"f.jsonl:11: not a JSON record", id="json"),
        pytest.param(b"[1]\n", r"f.jsonl:10: a record must be a mapping, got list", id="list"),
        pytest.param(line(outputs=None), r"f.jsonl:10: outputs must be", id="reference"),
        pytest.param(b"[" * 100_000 + b"\n", r"f.jsonl:10: not a JSON record", id="nesting"),
    ],
)
def test_line_that_is_no_record_is_named(content, message):
    with pytest.raises(DataError, match=message):
        measured(content, first_line=10)


def test_evidence_is_matched_as_a_set():
    content = json.dumps(SAMPLE).encode()
    (one,) = measured(content, record=SAMPLE).measurements
    # Cites {0} of the evidence {0, 1}: P = 1, R = 1/2, F2 = 5 * 1/2 / (4 + 1/2).
    assert (one.evidence.precision, one.evidence.recall) == (1.0, 0.5)
    assert one.evidence.f2 == pytest.approx(5 / 9)


def test_outcomes_of_both_parsers_are_kept():
    (one,) = measured(line(pred="<Answer>x</Answer>")).measurements
    assert (one.strict_outcome, one.tolerant_outcome) == ("no_blocks", "no_citation")


PIECES = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "<CHUNK_", "B", "(B)"])


@pytest.mark.parametrize("rules_of", RULES)
@given(pieces=st.lists(PIECES | st.text(max_size=5), max_size=12))
def test_every_rule_scores_every_text_between_0_and_1(rules_of, pieces):
    output = ModelOutput(cell="c", item_id="1", text="".join(pieces), references=("B",))
    assert all(0.0 <= score <= 1.0 for score in measure(output, rules_of=rules_of).scores.values())
