"""``longrlvr audit``: exit codes and the files it writes."""

import json

import pytest

from megatron_longrlvr.cli import FAILED_EXIT_CODE, USAGE_EXIT_CODE, main
from tests.support.audit_data import text_record, write_lines
from tests.support.byte_tokenizer import save_byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(save_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


def audit(path, tokenizer, *options, limit=4000):
    return main(
        ["audit", str(path), "--tokenizer", tokenizer, "--max-prompt", str(limit), *options]
    )


def test_clean_data_exits_with_zero_and_writes_what_is_asked(tmp_path, tokenizer, capsys):
    data = write_lines(tmp_path / "a.jsonl", [text_record(seed) for seed in range(3)])
    outputs = ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    assert audit(data, tokenizer, "--strict", *outputs) == 0
    assert "3 records, 0 errors, 0 warnings" in capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["num_rows"], report["findings"]) == (3, [])
    assert set(report["counts"].values()) == {0}
    assert "3 records, 0 errors, 0 warnings" in (tmp_path / "a.html").read_text()


def test_warnings_fail_only_when_strict(tmp_path, tokenizer):
    data = write_lines(tmp_path / "a.jsonl", [text_record(0), text_record(0) | {"id": "b"}])
    assert audit(data, tokenizer) == 0
    assert audit(data, tokenizer, "--strict") == FAILED_EXIT_CODE


def test_errors_fail_and_the_json_has_each_with_its_line(tmp_path, tokenizer):
    data = write_lines(tmp_path / "a.jsonl", ["{", text_record(0), "[]"])
    output = tmp_path / "a.json"
    assert audit(data, tokenizer, "--json", str(output)) == FAILED_EXIT_CODE
    findings = json.loads(output.read_text())["findings"]
    assert [finding["place"] for finding in findings] == [f"{data}:1", f"{data}:3"]


def test_a_wrong_file_name_or_limit_is_a_usage_error(tmp_path, tokenizer, capsys):
    assert audit(tmp_path / "none.jsonl", tokenizer) == USAGE_EXIT_CODE
    assert "no data file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        audit(tmp_path / "none.jsonl", tokenizer, limit=0)
    assert stop.value.code == USAGE_EXIT_CODE
