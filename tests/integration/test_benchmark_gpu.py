"""``tools/benchmark_gpu.py`` where there is no GPU: what it lists, and that all of it runs small.

Promise: a measurement that cannot be made here is listed with the reason, one that fails with its
error and the exit code 1, and the time in all is kept to.
"""

import json
import time

import pytest

from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.planner.workload import Lengths
from tests.support.gpu_models import LARGEST_FIRST
from tools import benchmark_gpu
from tools.benchmark_gpu import (
    TOTAL_S,
    Measurement,
    largest_that_fits,
    main,
    measurements,
    run,
)

pytestmark = pytest.mark.skipif(has_cuda(), reason="this machine has a GPU to measure")


def test_dry_run_lists_everything_within_the_time(capsys):
    assert main(["--dry-run"]) == 0
    listed = capsys.readouterr().out
    everything = measurements(is_rehearsal=False)
    assert all(one.name in listed for one in everything)
    assert sum(one.expected_s for one in everything) < TOTAL_S
    assert "needs transformer_engine, which is not installed" in listed
    assert listed.count("needs a GPU") == 2  # vLLM cannot sleep on CPU


def test_without_a_gpu_nothing_is_measured(capsys, tmp_path):
    assert main(["--output", str(tmp_path / "record.json")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "record.json").exists()


def test_rehearsal_runs_what_a_cpu_can(tmp_path):
    path = tmp_path / "record.json"
    # One of each kind, for the sake of time; the functions behind the others are the same.
    chosen = ["attention", "logprob-memory", "planned-memory-full", "update-1b"]
    assert main(["--rehearse", "--output", str(path), "--only", *chosen]) == 0
    record = json.loads(path.read_text())
    assert record["what"].startswith("rehearsal")
    assert record["gpu"] is None
    rows = {row["name"]: row for row in record["rows"]}
    done = {name for name, row in rows.items() if "found" in row}
    assert done == {*chosen[:3], "update-1b-local"}
    assert {rows[name]["left_out"] for name in set(rows) - done} == {
        "needs transformer_engine, which is not installed"
    }


def test_largest_model_is_the_first_that_the_planner_fits_in(monkeypatch):
    lengths, settings = Lengths(prompt=8192, response=512), {"recompute": "full"}
    rooms = {}
    for room in (200.0, 140.0, 80.0):
        monkeypatch.setattr(benchmark_gpu, "total_gib", lambda room=room: room)
        rooms[room] = largest_that_fits(LARGEST_FIRST, lengths, settings)
    # 18 bytes of weight, gradient and optimizer for each of 8.03e9 parameters are 134.6 GiB, of a
    # layer's 0.218e9 3.7; all else is 11 GiB, and 6 % of the memory stays free.
    assert rooms == {
        200.0: "8B with 32 of its 32 layers",
        140.0: "8B with 28 of its 32 layers",
        80.0: "8B with 12 of its 32 layers",
    }


def fail(_rank, _world_size):
    raise MemoryError("no room")


def wait(_rank, _world_size):
    time.sleep(60)


def measurement(function):
    return Measurement(name="it", says="", expected_s=1, function=function)


def test_what_fails_and_what_takes_too_long_is_told(monkeypatch, tmp_path):
    assert run(measurement(fail), left_s=60)["failed"] == "MemoryError: no room"
    assert run(measurement(wait), left_s=1)["left_out"] == "no time left"
    assert run(measurement(fail), left_s=0)["left_out"] == "no time left"
    monkeypatch.setattr(benchmark_gpu, "measurements", lambda **_: [measurement(fail)])
    assert main(["--rehearse", "--output", str(tmp_path / "record.json")]) == 1
