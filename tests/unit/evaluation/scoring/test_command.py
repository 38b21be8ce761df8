"""``longrlvr score``: what it prints and writes, and which mistakes it names."""

import csv
import json
import subprocess
import sys

import pytest

from megatron_longrlvr.cli import USAGE_EXIT_CODE, main
from tests.unit.evaluation.scoring.outputs import LONGREASON, RULER, SAMPLE, write_lines


@pytest.fixture
def ruler_file(tmp_path):
    records = [{**RULER, "index": 0}, {**RULER, "index": 1, "pred": "Rome"}]
    return write_lines(tmp_path / "ruler.jsonl", records)


def test_table_shows_rules_side_by_side(ruler_file, capsys):
    assert main(["score", str(ruler_file)]) == 0
    printed = capsys.readouterr().out
    for word in ("ruler, 2 outputs", "published", "answer_only", "strict", "soft", "50.00"):
        assert word in printed
    assert "strict parser:   no_blocks 2" in printed


def test_json_and_csv_hold_the_scores(ruler_file, tmp_path):
    outputs = ["--json", str(tmp_path / "s.json"), "--csv", str(tmp_path / "s.csv")]
    assert main(["score", str(ruler_file), *outputs]) == 0
    (file,) = json.loads((tmp_path / "s.json").read_text())["files"]
    assert file["scores"]["published"]["mean"] == 0.5
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    by_key = {(row["cell"], row["measure"]): row["mean"] for row in rows}
    assert by_key["mean", "published"] == by_key["qa_1/4096", "published"] == "0.5"
    assert by_key["mean", "strict"] == "0.0"


def test_undecided_outputs_are_in_table_json_and_csv(tmp_path, capsys):
    texts = ["<answer>B</answer>", "<answer>Oslo</answer>"]
    records = [{**LONGREASON, "id": text, "response": text} for text in texts]
    path = write_lines(tmp_path / "f.jsonl", records)
    outputs = ["--json", str(tmp_path / "s.json"), "--csv", str(tmp_path / "s.csv")]
    assert main(["score", str(path), *outputs]) == 0
    line = "undecided:       1 outputs by strict: 50.00 if all of them are wrong, 100.00 if right"
    assert line in capsys.readouterr().out
    (file,) = json.loads((tmp_path / "s.json").read_text())["files"]
    bounds = {"num_outputs": 1, "score_if_wrong": 0.5, "score_if_right": 1.0}
    assert file["undecided"]["strict"] == file["cell_undecided"]["32k"]["strict"] == bounds
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    found = {
        (row["cell"], row["measure"]): (row["num_undecided"], row["mean_if_right"]) for row in rows
    }
    assert found["32k", "strict"] == found["mean", "strict"] == ("1", "1.0")
    # Decided: "Oslo" holds no "B".
    assert found["32k", "published"] == ("0", "0.5")


def test_comparison_of_two_files_is_shown_and_written(ruler_file, tmp_path, capsys):
    better = write_lines(tmp_path / "b.jsonl", [{**RULER, "index": index} for index in (0, 1)])
    path = tmp_path / "s.json"
    assert main(["score", str(ruler_file), str(better), "--compare", "--json", str(path)]) == 0
    assert "McNemar p" in capsys.readouterr().out
    comparison = json.loads(path.read_text())["comparisons"][0]
    assert (comparison["rule"], comparison["num_second_only"]) == ("published", 1)
    assert comparison["difference"]["mean"] == 0.5


def test_fields_can_be_named(tmp_path, capsys):
    path = write_lines(tmp_path / "f.jsonl", [{"out": "<answer>x</answer>", "gold": ["x"]}])
    fields = ["--field", "response=out", "--field", "reference=gold"]
    assert main(["score", str(path), *fields]) == 0
    assert "mapped, 1 outputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["none.jsonl"], "none.jsonl: cannot be read", id="absent"),
        pytest.param(["a", "--compare"], "--compare takes two files", id="one-file"),
        pytest.param(["a", "--field", "response"], "ROLE=NAME", id="field-form"),
        pytest.param(["a", "--field", "response=x"], "missing roles", id="field-missing"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    assert main(["score", *arguments]) == USAGE_EXIT_CODE
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_compared_are_named(ruler_file, tmp_path, capsys):
    other = write_lines(tmp_path / "other.jsonl", [LONGREASON])
    assert main(["score", str(ruler_file), str(other), "--compare"]) == USAGE_EXIT_CODE
    assert "share no question" in capsys.readouterr().err


def test_samples_of_a_run_are_scored_without_torch(tmp_path):
    path = write_lines(tmp_path / "step_000001.jsonl", [SAMPLE])
    code = (
        "import sys; from megatron_longrlvr.cli import main; "
        f"main(['score', {str(path)!r}]); sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert "evidence:        precision 100.00" in result.stdout
