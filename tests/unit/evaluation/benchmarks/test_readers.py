"""LongBench v2 and LongReason: published records become questions that `score` reads back."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from megatron_longrlvr.config.benchmark import LongBenchV2Config, LongReasonConfig
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.longbench_v2 import longbench_questions
from megatron_longrlvr.evaluation.benchmarks.longreason import longreason_questions
from megatron_longrlvr.evaluation.scoring.formats import detect_format
from tests.unit.evaluation.benchmarks.benchmark_files import longbench, longreason, save_json


def read_longbench(path):
    return list(longbench_questions(LongBenchV2Config(kind="longbench_v2", path=str(path))))


def read_longreason(path):
    return list(longreason_questions(LongReasonConfig(kind="longreason", paths={"8k": str(path)})))


def as_output(question):
    return {**question.output_fields, question.response_field: "<answer>B</answer>"}


def test_longbench_question_holds_its_options(tmp_path):
    (question,) = read_longbench(save_json(tmp_path / "data.json", [longbench()]))
    assert question.text.startswith("Which city?\n(A) Paris\n(B) Rome\n(C) Oslo\n(D) Bern\n")
    assert question.references == ("B",)


def test_longreason_question_names_its_split(tmp_path):
    (question,) = read_longreason(save_json(tmp_path / "8k.json", [longreason()]))
    assert question.documents == ("Once upon a time.",)
    assert question.text.startswith("Which?\nA. x\nB. y")
    assert question.output_fields["split"] == "8k"


def test_parquet_and_json_lines_are_read_alike(tmp_path):
    records = [longreason(), longreason(example_idx="r2")]
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "8k.parquet")
    lines = tmp_path / "8k.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records))
    ids = [one.prompt_id for one in read_longreason(lines)]
    assert ids == [one.prompt_id for one in read_longreason(tmp_path / "8k.parquet")]
    assert ids == ["8k/r1", "8k/r2"]


@pytest.mark.parametrize(
    ("read", "record", "name"),
    [
        pytest.param(read_longbench, longbench(), "longbench_v2", id="longbench"),
        pytest.param(read_longreason, longreason(), "longreason", id="longreason"),
    ],
)
def test_outputs_are_in_the_format_of_the_benchmark(tmp_path, read, record, name):
    (question,) = read(save_json(tmp_path / "f.json", [record]))
    found = detect_format(as_output(question))
    assert found.name == name
    assert found.read(as_output(question), "f:1").references == ("B",)


@pytest.mark.parametrize(
    ("read", "record", "message"),
    [
        pytest.param(read_longbench, longbench(answer="E5"), "f.json:2: answer", id="letter"),
        pytest.param(read_longbench, longbench(choice_C=None), "f.json:2: choice_C", id="option"),
        pytest.param(read_longreason, longreason(background=""), "2: background", id="background"),
    ],
)
def test_wrong_record_is_named(tmp_path, read, record, message):
    good = longbench() if read is read_longbench else longreason()
    with pytest.raises(DataError, match=message):
        read(save_json(tmp_path / "f.json", [good, record]))
