"""Atomic writing: a reader sees the old file or the new one, and a failure leaves no trace."""

import pytest

from megatron_longrlvr.files import write_atomically


def test_reader_of_the_old_file_reads_on_undisturbed(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, "old")
    with path.open() as reader:
        write_atomically(path, "new text")
        assert reader.read() == "old"
    assert path.read_text() == "new text"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half \ud83d")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_line_breaks_stay_as_they_are(tmp_path):
    write_atomically(tmp_path / "file.txt", "a\r\nb\n")
    assert (tmp_path / "file.txt").read_bytes() == b"a\r\nb\n"
