"""Columns of a page: every value in its place, the newest always there, long runs thinned."""

import math

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting import metric_columns as module
from megatron_longrlvr.reporting.metric_columns import metric_columns
from megatron_longrlvr.reporting.run_record import load_runs
from tests.unit.reporting.run_dirs import f_beta, make_run


def columns(tmp_path, **given):
    return metric_columns(load_runs([make_run(tmp_path / "a", **given)])[0])


def test_values_stand_at_their_steps_and_gaps_are_none(tmp_path):
    found = columns(
        tmp_path,
        train={1: {"a": 0.5}, 2: {"a": math.nan, "b": 3.0}},
        heldout={0: f_beta(0.25)},
    )
    assert found["train"] == {
        "step": [1, 2],
        "every": 1,
        "values": {"a": [0.5, None], "b": [None, 3]},
    }
    assert found["eval"]["values"] == {names.EVAL_CONTEXT_F_BETA_MEAN: [0.25]}


def test_a_long_run_is_thinned_from_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    found = columns(tmp_path, train={step: {"a": float(step)} for step in range(1, 9)})
    assert found["train"] == {"step": [2, 5, 8], "every": 3, "values": {"a": [2, 5, 8]}}


def test_six_digits_are_enough_for_a_picture(tmp_path):
    found = columns(tmp_path, train={1: {"a": 1 / 3, "b": 1.5e-9, "c": 123456789.0}})
    assert found["train"]["values"] == {"a": [0.333333], "b": [1.5e-9], "c": [123456789]}
