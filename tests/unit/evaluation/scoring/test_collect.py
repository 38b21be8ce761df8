"""Measuring files: the same result with one process and with several, in the order of the file."""

import pytest

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.scoring.collect import measure_file
from tests.unit.evaluation.scoring.outputs import RULER, write_lines


def test_several_processes_measure_what_one_does(tmp_path):
    # Three blocks and more, so that the work is shared out.
    filler = "x" * 300_000
    records = [
        {**RULER, "index": index, "pred": f"{filler}<answer>{city}</answer>"}
        for index, city in enumerate(["Paris", "Rome"] * 25)
    ]
    path = write_lines(tmp_path / "f.jsonl", records)
    assert path.stat().st_size > 12 * 1024**2
    alone = measure_file(path, num_processes=1)
    assert measure_file(path, num_processes=2) == alone
    assert [one.item_id for one in alone.measurements] == [str(index) for index in range(50)]
    assert [one.scores["published"] for one in alone.measurements] == [1.0, 0.0] * 25


@pytest.mark.parametrize("content", ["", "\n\n", '{"cut": '])
def test_file_without_a_record_is_refused(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"empty\.jsonl: holds no record"):
        measure_file(path)


def test_file_of_another_encoding_is_said_to_hold_no_whole_line(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text('{"index": 0}', encoding="utf-16")
    with pytest.raises(DataError, match=r"odd\.jsonl: holds no record: line 1 is not a whole one"):
        measure_file(path)


def test_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text('{"outputs": ["a"], "pred": "a", "pred": "b"}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl:1: .* the key 'pred' stands twice"):
        measure_file(path)


def test_unknown_format_names_file_and_line(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text('\n{"a": 1}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl:2: no known format"):
        measure_file(path)
