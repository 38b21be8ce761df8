"""Raw rows: batches carry the numbers of their rows, and a large file is never held whole."""

import random
import struct

import pyarrow
import pytest
from pyarrow import parquet

from megatron_longrlvr.data.dataset import iter_records
from megatron_longrlvr.data.raw_rows import BATCH_ROWS, decode_batch, iter_batches
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.files import iter_records as benchmark_records


def test_lines_keep_their_numbers_over_batches_and_blanks(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(str(n) for n in range(1, BATCH_ROWS + 2)), "", "{"]) + "\n")
    rows = [row for batch in iter_batches(path) for row in decode_batch(batch)]
    assert [row.number for row in rows[:-1]] == [row.content for row in rows[:-1]]
    assert rows[-2].number == BATCH_ROWS + 1
    assert (rows[-1].number, rows[-1].content) == (BATCH_ROWS + 3, None)
    assert "not a JSON record" in rows[-1].problem


def test_one_row_group_is_read_in_parts(tmp_path):
    """Half of a file's size would be reached at once if its only row group were read whole."""
    draw = random.Random(0)
    rows = [{"chunks": [draw.randbytes(750).hex() for _ in range(20)]} for _ in range(1000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert parquet.ParquetFile(path).num_row_groups == 1
    before, most, num_rows = pyarrow.total_allocated_bytes(), 0, 0
    for batch in iter_batches(path):
        num_rows += batch.rows.num_rows
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert num_rows == 1000
    # A batch is 64 * 30 KB = 2 MB and a page, which is read whole, 1024 * 1.5 KB; the file has 15
    # MB or more.
    assert most < path.stat().st_size / 2


def no_utf8():
    """A column of the text q and a byte that no text ends with."""
    offsets = struct.pack("=2i", 0, 2)
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"q\xff")]
    return pyarrow.Array.from_buffers(pyarrow.string(), 1, buffers)


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(no_utf8(), id="text"),
        pytest.param(pyarrow.array([2**30], pyarrow.date32()), id="date"),
        pytest.param(pyarrow.array([0], pyarrow.timestamp("us", tz="No/Where")), id="zone"),
    ],
)
def test_a_cell_that_cannot_be_read_costs_its_row_alone(tmp_path, cells):
    path = tmp_path / "a.parquet"
    questions = pyarrow.chunked_array([cells.slice(0, 0), cells])
    parquet.write_table(pyarrow.table({"question": questions, "id": ["x"]}), path)
    (row,) = (row for batch in iter_batches(path) for row in decode_batch(batch))
    assert (row.number, row.content) == (1, None)
    assert row.problem.startswith("a cell cannot be read: ")
    with pytest.raises(DataError, match=r"a\.parquet:1: a cell cannot be read"):
        list(iter_records([path]))
    with pytest.raises(DataError, match=r"a\.parquet:1: a cell cannot be read"):
        list(benchmark_records(path))


def test_a_column_name_that_is_no_text_is_named_with_its_file(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"qqqq": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"qqqq", b"qqq\xff"))
    with pytest.raises(DataError, match=r"a\.parquet: unreadable parquet after row 0"):
        list(iter_batches(path))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": {"a": 1, "a": 1}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: not a JSON record: the key 'a' stands twice"):
        list(iter_records([path]))
    with pytest.raises(DataError, match=r"a\.jsonl:1: .* the key 'a' stands twice"):
        list(benchmark_records(path))
