"""Time the policy update with the prompt computed once against other ways, side by side.

    python tools/benchmark_update.py --trl-python trl/bin/python --output tests/records/update.json
    python tools/benchmark_update.py --models tiny --rounds 1

Contenders are processes of one thread that take turns on each shape: ours with a shared prompt,
ours with the prompt repeated, transformers with plain torch, and TRL's GRPOTrainer where
--trl-python names an interpreter that has it (several may be given; each is listed by itself). Each
works through the shape once in every turn before it is timed. Numbers are medians; ratios are
medians over rounds of the times of one round. A record is written after every shape.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORKERS = ROOT / "tools" / "update_workers"
sys.path.insert(0, str(WORKERS))

from shapes import Shape, config_of  # noqa: E402

from megatron_longrlvr.model.flops import forward_flops, group_work  # noqa: E402
from megatron_longrlvr.model.spec import read_model_spec  # noqa: E402
from megatron_longrlvr.observability.provenance import record_header  # noqa: E402

SHAPES = {
    "tiny": [Shape(512, 64, 8), Shape(2048, 64, 8), Shape(4096, 128, 8)],
    "smollm2-135m": [Shape(512, 32, 8), Shape(1024, 64, 8)],
}
LONGEST = 8192
SHARED, REPEATED, PLAIN = "ours, prompt shared", "ours, prompt repeated", "transformers and torch"


class Contender:
    """A worker process."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        self._read()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def time(self, shape: Shape) -> dict[str, float]:
        """Seconds by phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(shape)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self._log.seek(0)
        raise RuntimeError(f"{self._process.args} ended: {self._log.read()[-2000:]}")


def contenders(model: str, trl_pythons: Sequence[str]) -> dict[str, list[str]]:
    """Command of each contender by name."""
    common = [model, str(LONGEST)]
    commands = {
        SHARED: [sys.executable, str(WORKERS / "ours.py"), *common, "shared"],
        REPEATED: [sys.executable, str(WORKERS / "ours.py"), *common, "repeated"],
        PLAIN: [sys.executable, str(WORKERS / "plain.py"), *common],
    }
    for python in trl_pythons:
        ask = [python, "-c", "import importlib.metadata as m; print(m.version('trl'))"]
        version = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
        commands[f"TRL {version}"] = [python, str(WORKERS / "trl_trainer.py"), *common]
    return commands


def shapes_of(model: str, asked: Sequence[str] | None) -> list[Shape]:
    """Shapes of the command line, or the model's own."""
    if not asked:
        return SHAPES[model]
    return [Shape(*map(int, text.split(","))) for text in asked]


def flop_ratio(model: str, shape: Shape) -> float:
    """Model FLOPs of an update with the prompt repeated over those with it shared."""
    with tempfile.TemporaryDirectory() as name:
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        config |= {"hidden_act": "silu", "rms_norm_eps": 1e-6, **config_of(model, longest=LONGEST)}
        (Path(name) / "config.json").write_text(json.dumps(config))
        spec = read_model_spec(Path(name))
    responses = [shape.response] * shape.group
    repeated, shared = (
        forward_flops(spec, group_work(shape.prompt, responses, shared_prompt=is_shared))
        for is_shared in (False, True)
    )
    return repeated / shared


def measure(
    model: str, shape: Shape, running: dict[str, Contender], *, rounds: int
) -> dict[str, Any]:
    """One row of the record."""
    turns = [
        {name: contender.time(shape) for name, contender in running.items()} for _ in range(rounds)
    ]
    row: dict[str, Any] = {"model": model, **asdict(shape), "rounds": rounds, "seconds": {}}
    for name in running:
        row["seconds"][name] = {
            phase: statistics.median(turn[name][phase] for turn in turns)
            for phase in ("logprobs_s", "update_s")
        }
    row["flop_ratio"] = flop_ratio(model, shape)
    row["update_over_shared"] = {
        name: statistics.median(turn[name]["update_s"] / turn[SHARED]["update_s"] for turn in turns)
        for name in running
        if name != SHARED
    }
    row["repeated_over_plain"] = statistics.median(
        turn[REPEATED]["update_s"] / turn[PLAIN]["update_s"] for turn in turns
    )
    row["share_of_flop_ratio"] = row["update_over_shared"][REPEATED] / row["flop_ratio"]
    return row


def main() -> None:
    """Measure every shape and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--models", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument(
        "--shapes", nargs="*", help="prompt,response,group of each; default: those of the model"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl-python", nargs="*", default=[], help="interpreters that have trl")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        commands = contenders(model, arguments.trl_python)
        with ExitStack() as stack:
            running = {
                name: stack.enter_context(Contender(command)) for name, command in commands.items()
            }
            for shape in shapes_of(model, arguments.shapes):
                rows.append(measure(model, shape, running, rounds=arguments.rounds))
                print(json.dumps(rows[-1], indent=1), flush=True)
                if arguments.output is not None:
                    write(arguments.output, rows)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the record."""
    header = record_header(
        "CPU seconds of one group, one process of one thread, fp32; medians over rounds",
        note="one thread per contender",
    )
    record = {**header, "rows": rows}
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
