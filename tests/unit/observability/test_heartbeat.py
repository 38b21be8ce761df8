"""A rank that gets from one part of a step to the next shows it to whoever watches it."""

import os

import pytest

from megatron_longrlvr.observability.heartbeat import HEARTBEAT_VARIABLE, beat
from megatron_longrlvr.trainer.stopwatch import PARTS, Stopwatch

LONG_AGO = 1_000_000


def silent(path, monkeypatch):
    path.touch()
    os.utime(path, (LONG_AGO, LONG_AGO))
    monkeypatch.setenv(HEARTBEAT_VARIABLE, str(path))
    return path


@pytest.mark.parametrize("part", PARTS)
def test_end_of_a_part_is_a_sign_of_life(part, tmp_path, monkeypatch):
    path = silent(tmp_path / "beat", monkeypatch)
    with Stopwatch().time(part):
        assert path.stat().st_mtime == LONG_AGO
    assert path.stat().st_mtime > LONG_AGO


def test_nobody_has_to_watch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(HEARTBEAT_VARIABLE, raising=False)
    beat()
    assert list(tmp_path.iterdir()) == []
