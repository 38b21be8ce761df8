"""Everything that one GPU can tell, measured in one go: precision, memory, speed, sleep and refit.

    python tools/benchmark_gpu.py --dry-run
    python tools/benchmark_gpu.py --output tests/records/gpu.json
    python tools/benchmark_gpu.py --only precision memory --rehearse

Each measurement is a process of its own, so that none finds the memory of another. What has not
begun when the time is up is listed as such; so is what needs a library that is not there, and what
fails, with its error. ``--rehearse`` runs all of it with tiny shapes, also on CPU: its numbers mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.planner.hardware import ACCELERATORS
from megatron_longrlvr.planner.memory import RESERVE_FRAC
from megatron_longrlvr.planner.workload import Lengths
from tests.support.gpu_bounds import BF16, FP8
from tests.support.gpu_checks import (
    GROUPS,
    attention_errors,
    distances,
    logprob_peaks,
    planned_and_measured,
    planned_gib,
    update_rate,
)
from tests.support.gpu_machine import describe_gpu, missing, total_gib
from tests.support.gpu_models import LARGEST_FIRST, ONE_B, TINY, save_model
from tests.support.gpu_rollout import refit_rate, sleep_and_wake
from tests.support.spawn import RankTimeoutError, run_distributed

TOTAL_S = 480.0
"""What all measurements together may take."""

LIBRARIES = ("transformer-engine-torch", "flash-attn", "flash-attn-4", "apex", "triton")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One process."""

    name: str
    says: str
    expected_s: float
    """On an H200; a guess until there is a record."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    """Libraries, and what the GPU must be able to compute (``tests/support/gpu_machine.py``)."""

    is_rehearsed: bool = True
    """Whether it runs without a GPU."""


def precision(rank: int, world_size: int, others: Mapping[str, Any]) -> dict[str, Any]:
    """Distances from fp32, and the bounds of the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = save_model(Path(name), TINY)
        found = distances(rank, world_size, folder, {"dtype": "fp32"}, others)
    return {"distances": found, "bounds": {"bf16": BF16, "fp8": FP8}}


def attention(_rank: int, _world_size: int) -> dict[str, Any]:
    """Errors of attention by blocks."""
    return {
        str(dtype): attention_errors(GROUPS, dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    }


TE = {"layers": "transformer_engine"}


def _fp8(kind: str) -> dict[str, Any]:
    return {**TE, "fp8": {"kind": kind}}


def measurements(*, is_rehearsal: bool) -> list[Measurement]:
    """All of them, in the order in which they run: what is needed most comes first."""
    one, scale = (TINY, 64) if is_rehearsal else (ONE_B, 1)
    models = {"tiny": TINY} if is_rehearsal else LARGEST_FIRST
    return [
        *_of_precision(),
        *_of_memory(one, scale),
        *_of_speed(one, models, scale),
        *_of_engine(one),
    ]


def _of_precision() -> list[Measurement]:
    kinds: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
        "bf16": ({}, ()),
        "te": (TE, ("te",)),
        "delayed": (_fp8("delayed"), ("te", "fp8")),
        "current": (_fp8("current"), ("te", "fp8")),
        "blockwise": (_fp8("blockwise"), ("te", "blockwise")),
        "mxfp8": (_fp8("mxfp8"), ("te", "mxfp8")),
    }
    return [
        *(
            Measurement(
                name=f"precision-{kind}",
                says=f"log-probabilities and gradients against fp32: {kind}",
                expected_s=15,
                function=precision,
                arguments=({kind: settings},),
                needs=needs,
            )
            for kind, (settings, needs) in kinds.items()
        ),
        Measurement(
            name="attention",
            says="attention of shared prompts against float64 on the CPU",
            expected_s=15,
            function=attention,
        ),
    ]


def _of_memory(one: ModelSpec, scale: int) -> list[Measurement]:
    prompts = tuple((tokens - 4096) // scale for tokens in (2**16, 2**17))
    lengths = Lengths(prompt=16384 // scale, response=1024 // scale)
    chunk = {"logprob_chunk_tokens": 1024 // scale}
    return [
        Measurement(
            name="logprob-memory",
            says="peak of the log-probabilities of 64K and 128K tokens, two layers of the 1B model",
            expected_s=30,
            function=logprob_peaks,
            arguments=(replace(one, num_layers=2), prompts, 4096 // scale, chunk),
        ),
        *(
            Measurement(
                name=f"planned-memory-{recompute}",
                says=f"peak of an update of the 1B model against the planner's, {recompute} again",
                expected_s=20,
                function=planned_and_measured,
                arguments=(one, lengths, 8, {"recompute": recompute, **chunk}),
            )
            for recompute in ("none", "full")
        ),
    ]


def _of_speed(one: ModelSpec, models: Mapping[str, ModelSpec], scale: int) -> list[Measurement]:
    settings = {"recompute": "full", "logprob_chunk_tokens": 1024 // scale}
    ways: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
        "local": ({}, ()),
        "te": (TE, ("te",)),
        "fp8-current": (_fp8("current"), ("te", "fp8")),
        "fp8-blockwise": (_fp8("blockwise"), ("te", "blockwise")),
    }
    lengths = Lengths(prompt=32768 // scale, response=2048 // scale)
    shorter = Lengths(prompt=8192 // scale, response=512 // scale)
    largest = largest_that_fits(models, shorter, settings)
    return [
        *(
            Measurement(
                name=f"update-1b-{way}",
                says=f"seconds, TFLOP/s and MFU of an update of the 1B model, {way}",
                expected_s=30,
                function=update_rate,
                arguments=(one, lengths, 8, {**settings, **more}),
                needs=needs,
            )
            for way, (more, needs) in ways.items()
        ),
        Measurement(
            name="update-largest",
            says=f"the same of the largest model that the planner fits in here, {largest}",
            expected_s=45,
            function=update_rate,
            arguments=(models[largest], shorter, 8, settings),
        ),
    ]


def largest_that_fits(
    models: Mapping[str, ModelSpec], lengths: Lengths, settings: Mapping[str, Any]
) -> str:
    """The first model that the planner fits into this GPU, or into an H200 where there is none."""
    room = total_gib() or ACCELERATORS["h200"].memory_gib
    for name, spec in models.items():
        terms = planned_gib(spec, lengths, 8, settings)
        if sum(terms.values()) < room * (1 - RESERVE_FRAC):
            return name
    raise SystemExit(f"none of {', '.join(models)} fits into {room:.0f} GiB")


def _of_engine(one: ModelSpec) -> list[Measurement]:
    return [
        Measurement(
            name="sleep",
            says="memory that a colocated engine gives back, and whether it samples the same after",
            expected_s=45,
            function=sleep_and_wake,
            arguments=(1,),
            needs=("vllm",),
            is_rehearsed=False,
        ),
        Measurement(
            name="refit",
            says="GB/s of the weights of four layers of the 1B model into a colocated engine",
            expected_s=45,
            function=refit_rate,
            arguments=(one,),
            needs=("vllm",),
            is_rehearsed=False,
        ),
    ]


def why_not(measurement: Measurement, *, left_s: float) -> str | None:
    """Why a measurement is passed over; None where it is not."""
    if not (has_cuda() or measurement.is_rehearsed):
        return "needs a GPU"
    if lacking := missing(measurement.needs):
        return f"needs {lacking}"
    return "no time left" if left_s <= 0 else None


def run(measurement: Measurement, *, left_s: float) -> dict[str, Any]:
    """One row of the record."""
    reason = why_not(measurement, left_s=left_s)
    row: dict[str, Any] = {"name": measurement.name, "says": measurement.says}
    if reason is not None:
        return {**row, "left_out": reason}
    start = time.perf_counter()
    try:
        (found,) = run_distributed(
            measurement.function, 1, *measurement.arguments, timeout_s=max(left_s, 1.0)
        )
    except RankTimeoutError:
        return {**row, "left_out": "no time left"}
    except AssertionError as error:  # a rank's traceback
        return {**row, "failed": str(error).strip().splitlines()[-1]}
    return {**row, "seconds": round(time.perf_counter() - start, 1), "found": found}


def main(arguments: Sequence[str] | None = None) -> int:
    """List, or measure and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="begin so")
    parser.add_argument("--dry-run", action="store_true", help="list what would run, and why not")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, on CPU too")
    parsed = parser.parse_args(arguments)
    chosen = [
        one
        for one in measurements(is_rehearsal=parsed.rehearse)
        if one.name.startswith(tuple(parsed.only))
    ]
    if parsed.dry_run:
        for one in chosen:
            reason = why_not(one, left_s=TOTAL_S)
            print(f"{one.name:26} {one.expected_s:4.0f} s  {one.says}")
            if reason is not None:
                print(f"{'':26}         passed over here: {reason}")
        total = sum(one.expected_s for one in chosen)
        print(f"{total:.0f} s expected in all, {TOTAL_S:.0f} s at most")
        return 0
    if not (has_cuda() or parsed.rehearse):
        print(
            "no CUDA device; --dry-run lists what would run, --rehearse tries it", file=sys.stderr
        )
        return 2
    return measure(chosen, parsed.output, is_rehearsal=parsed.rehearse)


def measure(chosen: Sequence[Measurement], output: Path | None, *, is_rehearsal: bool) -> int:
    """Run all and write the record after each; 1 where one failed."""
    end = time.perf_counter() + TOTAL_S
    what = "precision, memory and speed on one GPU, by measurement"
    header = record_header(
        f"rehearsal with tiny shapes: {what}" if is_rehearsal else what,
        more_libraries=LIBRARIES,
    )
    record: dict[str, Any] = {**header, "gpu": describe_gpu(), "rows": []}
    for one in chosen:
        row = run(one, left_s=end - time.perf_counter())
        record["rows"].append(row)
        print(json.dumps(row), flush=True)
        if output is not None:
            output.write_text(json.dumps(record, indent=1) + "\n")
    return int(any("failed" in row for row in record["rows"]))


if __name__ == "__main__":
    sys.exit(main())
