"""metrics.jsonl: whole lines, no NaN, and a resumed run that leaves one record per step."""

import json
import math

import pytest

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.observability.metric_log import (
    MetricKind,
    MetricLog,
    MetricRecord,
    read_metric_log,
)


def record(step, kind=MetricKind.TRAIN, **metrics):
    return MetricRecord(step=step, kind=kind, metrics=metrics)


def write(path, *records, **options):
    log = MetricLog(path, **options)
    for one in records:
        log.append(one)
    log.close()


def test_record_is_one_flat_json_object(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, MetricRecord(step=3, kind=MetricKind.EVAL, metrics={"eval/answer_mean": 0.25}))
    assert path.read_text() == '{"step": 3, "kind": "eval", "eval/answer_mean": 0.25}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_number_that_json_lacks_becomes_null(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    write(path, record(1, loss=value, lr=0.5))
    assert json.loads(path.read_text()) == {"step": 1, "kind": "train", "loss": None, "lr": 0.5}
    assert read_metric_log(path)[0].metrics == {"loss": None, "lr": 0.5}


def test_line_is_in_the_file_before_the_log_is_closed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    log.append(record(1, a=1.0))
    assert read_metric_log(path) == [record(1, a=1.0)]
    log.close()


def test_resume_cuts_off_later_steps_and_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    evaluated = record(2, MetricKind.EVAL, b=9.0)
    write(path, record(1, a=1.0), record(2, a=2.0), evaluated, record(3, a=3.0), record(4, a=4.0))
    write(path, record(3, a=30.0), last_kept_step=2)
    assert read_metric_log(path) == [
        record(1, a=1.0),
        record(2, a=2.0),
        evaluated,
        record(3, a=30.0),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resume_at_step_zero_keeps_the_first_evaluation_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    start = record(0, MetricKind.EVAL, b=9.0)
    write(path, start, record(1, a=1.0))
    write(path, last_kept_step=0)
    assert read_metric_log(path) == [start]


def test_resume_keeps_nulls(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(1, a=math.nan))
    write(path, last_kept_step=1)
    assert read_metric_log(path) == [record(1, a=None)]


def test_new_run_refuses_a_log_with_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(1, a=1.0))
    with pytest.raises(RuntimeError, match=r"metrics\.jsonl already holds 1 records; resume"):
        MetricLog(path)
    assert read_metric_log(path) == [record(1, a=1.0)]


def test_half_a_line_left_by_a_crash_is_passed_over_and_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(1, a=1.0))
    with path.open("a") as file:
        file.write('{"step": 2, "ki')
    assert read_metric_log(path) == [record(1, a=1.0)]
    write(path, record(2, a=2.0), last_kept_step=1)
    assert read_metric_log(path) == [record(1, a=1.0), record(2, a=2.0)]


@pytest.mark.parametrize(
    "line",
    [
        *("{broken", "[1]", '{"step": 1}', '{"step": 1, "kind": "other"}', "\udcff"),
        '{"step": Infinity, "kind": "train"}',
        '{"step": 1, "kind": "train", "a": "b"}',
        '{"step": 1, "kind": "train", "a": 1' + "0" * 400 + "}",
        "[" * 100_000,
    ],
    ids=lambda line: ascii(line)[:40],
)
def test_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    write(path, record(1, a=1.0))
    with path.open("ab") as file:
        file.write(line.encode("utf-8", errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2 is not a metric record"):
        read_metric_log(path)
