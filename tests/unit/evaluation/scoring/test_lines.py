"""Blocks of lines: whole lines, numbered from 1, the same content whatever the block size."""

import gzip

import pytest

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.scoring.lines import iter_blocks

CONTENT = b"".join(b'{"n": %d}\n' % number for number in range(50)) + b'{"n"'


@pytest.mark.parametrize("block_bytes", [1, 10, 100, 10_000])
@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.gz", "packed.jsonl"])
def test_blocks_joined_are_the_file_and_lines_are_numbered(tmp_path, name, block_bytes):
    path = tmp_path / name
    path.write_bytes(gzip.compress(CONTENT) if name.startswith("packed") else CONTENT)
    blocks = list(iter_blocks(path, block_bytes=block_bytes))
    assert b"".join(block.content for block in blocks) == CONTENT
    for block in blocks[1:]:
        assert block.content.startswith(b'{"n": %d}' % (block.first_line - 1)) or block.is_cut
    assert [block.is_cut for block in blocks] == [False] * (len(blocks) - 1) + [True]


def test_byte_order_mark_is_dropped(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\n")
    (block,) = iter_blocks(path)
    assert block.content == b"{}\n"


@pytest.mark.parametrize(
    "content", [pytest.param(b"plain", id="no-gzip"), pytest.param(b"\x1f\x8b\x08", id="cut")]
)
def test_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"f\.jsonl\.gz: cannot be read"):
        list(iter_blocks(path))


def test_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        list(iter_blocks(tmp_path / "none.jsonl"))
