"""Summaries: samples of a question are averaged first, cells after that, outcomes are counted."""

import json

import pytest

from megatron_longrlvr.evaluation.scoring.collect import measure_file
from megatron_longrlvr.evaluation.scoring.summary import summarize
from tests.unit.evaluation.scoring.outputs import LONGREASON, RULER, SAMPLE, write_lines


def summary_of(tmp_path, records):
    return summarize(measure_file(write_lines(tmp_path / "f.jsonl", records)), seed=0)


def test_scores_are_means_over_samples_then_questions_then_cells(tmp_path):
    right, wrong = {**RULER, "pred": "Paris"}, {**RULER, "pred": "Rome"}
    # qa_1: question 0 has 1 of 2 samples right, question 1 is right: (0.5 + 1) / 2 = 0.75.
    # qa_2: one question, wrong. Mean of cells 0.375.
    records = [right, wrong, {**right, "index": 1}, {**wrong, "task": "qa_2"}]
    summary = summary_of(tmp_path, records)
    assert summary.cell_scores["qa_1/4096"]["published"].mean == 0.75
    assert summary.cell_scores["qa_1/4096"]["published"].num_items == 2
    assert summary.scores["published"].mean == 0.375
    assert summary.num_outputs == 4


def test_outcomes_and_defects_are_counted(tmp_path):
    texts = ["<answer>a</answer>", "<answer>a</answer>", "a", None]
    summary = summary_of(tmp_path, [{**RULER, "pred": text} for text in texts])
    assert summary.strict_outcomes == {"no_citation": 2, "no_blocks": 2}
    assert summary.defects == {"no_response": 1}


def test_undecided_outputs_are_counted_with_what_hangs_on_them(tmp_path):
    # 32k: a names B and is right; b, an option's text, is undecided; c names D and is wrong.
    # 64k: one question, of whose two samples one is right and one undecided.
    texts = {"a": "B", "b": "Oslo", "c": "D"}
    records = [
        {**LONGREASON, "id": name, "response": f"<answer>{text}</answer>"}
        for name, text in texts.items()
    ]
    records += [{**records[0], "split": "64k"}, {**records[1], "split": "64k", "id": "a"}]
    summary = summary_of(tmp_path, records)
    assert summary.scores["strict"].mean == pytest.approx((1 / 3 + 1 / 2) / 2)
    found = summary.undecided["strict"]
    assert (found.num_outputs, found.score_if_wrong) == (2, summary.scores["strict"].mean)
    assert found.score_if_right == pytest.approx((2 / 3 + 1) / 2)
    assert summary.cell_undecided["32k"]["strict"].num_outputs == 1
    assert summary.cell_undecided["32k"]["strict"].score_if_right == pytest.approx(2 / 3)
    # The published rule decides everything.
    assert summary.undecided.keys() == {"strict", "soft"}


def test_what_a_verifier_pays_for_undecided_outputs_lies_between_the_bounds(tmp_path):
    # "Old Paris" holds "Paris": paid, but undecided.
    summary = summary_of(tmp_path, [{**RULER, "pred": "<answer>Old Paris</answer>"}])
    found = summary.undecided["soft"]
    assert (found.score_if_wrong, summary.scores["soft"].mean, found.score_if_right) == (0, 1, 1)


def test_evidence_is_averaged(tmp_path):
    cites_both = "<useful_chunks><CHUNK_0><CHUNK_1></useful_chunks><answer>x</answer>"
    records = [SAMPLE, {**SAMPLE, "prompt_id": "q", "response_text": cites_both}]
    summary = summary_of(tmp_path, records)
    # Recall 1/2 and 1; F2 5/9 and 1.
    assert summary.evidence["recall"].mean == 0.75
    assert summary.evidence["f2"].mean == pytest.approx((5 / 9 + 1) / 2)


def test_stored_verdicts_of_some_records_count_those_records(tmp_path):
    without = {**SAMPLE, "prompt_id": "q"}
    del without["reward_parts"]
    summary = summary_of(tmp_path, [SAMPLE, without])
    assert summary.scores["stored"].num_items == 1
    assert summary.scores["strict"].num_items == 2


def test_no_evidence_means_no_evidence_scores(tmp_path):
    assert summary_of(tmp_path, [RULER]).evidence == {}
    assert json.dumps(summary_of(tmp_path, [RULER]).strict_outcomes) == '{"no_blocks": 1}'
