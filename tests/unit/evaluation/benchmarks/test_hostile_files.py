"""Whatever a benchmark file holds, it is read, or refused by an error that names it.

Every value of a good record is replaced by each of a list of others, and left out; files are cut,
emptied, and written in other encodings. What a reader accepts can be written to the outputs and
encoded by a tokenizer.
"""

import codecs
import gzip
import json

import pytest

from megatron_longrlvr.config.benchmark import LongBenchV2Config, LongReasonConfig
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.longbench_v2 import longbench_questions
from megatron_longrlvr.evaluation.benchmarks.longreason import longreason_questions
from megatron_longrlvr.evaluation.benchmarks.qa_pool import read_hotpot, read_squad
from tests.unit.evaluation.benchmarks.benchmark_files import (
    hotpot,
    longbench,
    longreason,
    save_json,
    squad,
)

ODD_VALUES = [
    *(None, "", " ", 0, -1, 1.5, float("nan"), True, 10**30, "\ud800", "text"),
    *([], {}, [None], [[]], [[[]]], ["T"], [["T"]], [["T", None]], {"a": 1}),
]


def read_longbench(path):
    return list(longbench_questions(LongBenchV2Config(kind="longbench_v2", path=str(path))))


def read_longreason(path):
    return list(longreason_questions(LongReasonConfig(kind="longreason", paths={"8k": str(path)})))


READERS = [
    pytest.param(read_longbench, [longbench()], id="longbench"),
    pytest.param(read_longreason, [longreason()], id="longreason"),
    pytest.param(read_hotpot, hotpot()[:1], id="hotpot"),
    pytest.param(
        read_squad, {"data": [{"paragraphs": squad()["data"][0]["paragraphs"][:1]}]}, id="squad"
    ),
]


def paths_within(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield from paths_within(child, (*path, key))


def replaced(content, path, value):
    """A copy with another value at a path, or without the path if the value is ``...``."""
    if not path:
        return value
    changed = json.loads(json.dumps(content))
    *parents, last = path
    parent = changed
    for key in parents:
        parent = parent[key]
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return changed


def texts_of(read):
    """All texts that a reader gave, as the rest of the program uses them."""
    if isinstance(read, list):
        outputs = [one.output_fields for one in read]
        return [json.dumps(outputs), *(text for one in read for text in (*one.documents, one.text))]
    return [*read.documents, *(one.question for one in read.items)]


@pytest.mark.parametrize(("read", "content"), READERS)
def test_odd_value_is_read_or_refused_with_the_name_of_the_file(tmp_path, read, content):
    num_tried = num_read = num_refused = 0
    for path in paths_within(content):
        for value in [*ODD_VALUES, ...] if path else ODD_VALUES:
            file = save_json(tmp_path / "f.json", replaced(content, path, value))
            try:
                found = read(file)
            except DataError as error:
                message = str(error)
            else:
                message = None
                for text in texts_of(found):
                    text.encode("utf-8")
            num_read += message is None
            num_refused += message is not None and str(file) in message
            num_tried += 1
    assert num_read + num_refused == num_tried
    assert num_read
    assert num_refused


GOOD_LINE = (json.dumps(longbench()) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("f.jsonl", b"", "f.jsonl: holds no record", id="empty"),
        pytest.param("f.jsonl", b"\n \n", "f.jsonl: holds no record", id="blank-lines"),
        pytest.param("f.json", b"[]", "f.json: holds no record", id="empty-list"),
        pytest.param("f.jsonl", GOOD_LINE + GOOD_LINE[:-9], "f.jsonl:2: not a JSON", id="cut"),
        pytest.param(
            "f.jsonl", GOOD_LINE + '{"a": "é"}'.encode("latin-1"), "f.jsonl:2: not a", id="latin-1"
        ),
        pytest.param("f.jsonl", GOOD_LINE.decode().encode("utf-16"), "f.jsonl:1", id="utf-16"),
        pytest.param("f.jsonl", gzip.compress(GOOD_LINE), "f.jsonl:1: not a", id="gzip-inside"),
        pytest.param("f.jsonl.gz", gzip.compress(GOOD_LINE), "must end in .json", id="gzip"),
        pytest.param("f.jsonl", GOOD_LINE + b"\0" * 64, "f.jsonl:2: not a JSON", id="zero-bytes"),
        pytest.param("f.jsonl", b"[" * 100_000, "f.jsonl:1: not a JSON", id="nesting"),
        pytest.param("f.jsonl", b'{"a":' + b"9" * 5000 + b"}", "f.jsonl:1", id="huge-number"),
        pytest.param("f.parquet", b"PAR1", "f.parquet: unreadable parquet", id="parquet"),
    ],
)
def test_broken_file_is_named_with_the_record(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_longbench(tmp_path / name)


def test_directory_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "f.jsonl").mkdir()
    with pytest.raises(DataError, match=r"f\.jsonl: cannot be read"):
        read_longbench(tmp_path / "f.jsonl")


def test_mark_of_encoding_and_line_ends_of_windows_are_read(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + GOOD_LINE.replace(b"\n", b"\r\n"))
    assert [one.prompt_id for one in read_longbench(path)] == ["x1"]


def test_whole_number_is_an_id(tmp_path):
    (question,) = read_longreason(save_json(tmp_path / "f.json", [longreason(example_idx=7)]))
    assert question.prompt_id == "8k/7"
