"""Raw rows: batches carry the numbers of their rows, and a large file is never held whole."""

import random

import pyarrow
from pyarrow import parquet

from megatron_longrlvr.data.raw_rows import BATCH_ROWS, decode_batch, iter_batches


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
