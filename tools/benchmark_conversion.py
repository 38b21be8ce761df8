"""Measure speed and memory of conversion on synthetic weights of 70B geometry; write the record.

    python tools/benchmark_conversion.py /scratch/conversion --layers 2 6

Makes folders of so many layers (hidden 8192, ffn 28672, 64/8 heads, 128256 words, bfloat16),
then alternates `cp` of their weights with both conversions, in one process and in two. Needs
three times the folder on the disk: 44 GB for 6 layers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_longrlvr.conversion.safetensors_writer import create_file, plan_file, put_values
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import hf_shapes
from megatron_longrlvr.observability.provenance import library_versions, read_git_state

ROOT = Path(__file__).parents[1]
GEOMETRY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
SAMPLE_S = 0.002  # between two looks at the memory of a conversion
# A conversion imports torch before its clock starts. Meanwhile a virtual machine gives free memory
# back to its host, and whoever uses it next pays for that; cp waits as long.
START_S = 8.0
BLOCK = 2**24


def make_folder(folder: Path, num_layers: int) -> int:
    """Write a model folder of random weights; returns the bytes of its weight file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**GEOMETRY, "num_hidden_layers": num_layers}))
    shapes = hf_shapes(read_model_spec(folder))
    plan = plan_file(
        "model.safetensors", {name: (shape, torch.bfloat16) for name, shape in shapes.items()}
    )
    create_file(folder, plan)
    values = torch.randn(BLOCK).bfloat16()
    with (folder / plan.name).open("r+b") as file:
        for place in plan.places.values():
            for start in range(0, place.nbytes, 2 * BLOCK):
                count = min(place.nbytes - start, 2 * BLOCK) // 2
                put_values(values[:count], file.fileno(), place.start + start)
    return plan.nbytes


def anonymous_bytes(process_id: int) -> int:
    """Memory of a process that no file backs; 0 where it has gone."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def drop_from_cache(folder: Path) -> None:
    """Make all files below a folder durable and forget their pages, as after a restart."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(tool: str, source: Path, target: Path, *, num_ranks: int = 1) -> dict[str, float]:
    """Run a conversion and watch it; seconds are those of its own library call.

    Memory is that of the process itself, so it says nothing where torchrun starts others.
    """
    plan, run = {
        "hf_to_megatron": ("plan_import(s)", "run_import"),
        "megatron_to_hf": ("plan_export(find_source(s), max_shard_gb=1000)", "run_export"),
    }[tool]
    code = f"""
import sys, time
from pathlib import Path
from megatron_longrlvr.conversion.{tool} import *
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.conversion.ranks import started_ranks
s, t = map(Path, sys.argv[1:])
anonymous = [l for l in open("/proc/self/status") if l.startswith("RssAnon")][0].split()[1]
with started_ranks() as ranks:
    start, processor = time.perf_counter(), time.process_time()
    {run}({plan}, t, ranks=ranks)
    if ranks.rank == 0:
        print(time.perf_counter() - start, time.process_time() - processor, anonymous)
"""
    together = ["-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks), "--no-python"]
    starter = [] if num_ranks == 1 else [*together, sys.executable]
    process = subprocess.Popen(
        [sys.executable, *starter, "-c", code, str(source), str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(SAMPLE_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{tool} failed on {source}")
    seconds, processor_s, before_kib = said.split()
    times = {"seconds": float(seconds), "processor_s_of_one_rank": float(processor_s)}
    if num_ranks > 1:
        return times
    return {
        **times,
        "peak_anonymous_gib": peak / 2**30,
        "of_which_libraries_gib": int(before_kib) / 2**20,
    }


def copy(source: Path, target: Path) -> dict[str, float]:
    """Copy with cp and make it durable, as the conversions do."""
    time.sleep(START_S)
    start, before = time.perf_counter(), os.times()
    subprocess.run(["cp", str(source / "model.safetensors"), str(target)], check=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds, after = time.perf_counter() - start, os.times()
    processor_s = sum(after[:4]) - sum(before[:4])  # this process and its children
    return {"seconds": seconds, "processor_s_of_one_rank": processor_s}


def remove(path: Path) -> None:
    """Remove a file or a folder, where it is."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def alternate(scratch: Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Copy, import and export in turn; everything starts from a disk that nobody has read."""
    source, copied, imported, back = (scratch / name for name in ("hf", "cp", "megatron", "back"))
    steps: dict[str, tuple[Path, Callable[[], dict[str, float]]]] = {
        "cp": (copied, lambda: copy(source, copied)),
        "hf_to_megatron": (imported, lambda: measure("hf_to_megatron", source, imported)),
        "megatron_to_hf": (back, lambda: measure("megatron_to_hf", imported, back)),
        "hf_to_megatron_2_ranks": (
            imported,
            lambda: measure("hf_to_megatron", source, imported, num_ranks=2),
        ),
        "megatron_to_hf_2_ranks": (
            back,
            lambda: measure("megatron_to_hf", imported, back, num_ranks=2),
        ),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    results["same_bytes_back"] = []
    for _ in range(repeats):
        for name, (target, run) in steps.items():
            remove(target)
            drop_from_cache(scratch)
            results[name].append(run())
            print(f"  {name}: {results[name][-1]}", flush=True)
            if name == "cp":
                remove(copied)
            if target == back:
                same = subprocess.run(
                    ["cmp", str(source / "model.safetensors"), str(back / "model.safetensors")]
                )
                results["same_bytes_back"].append({"exit_code": float(same.returncode)})
    return results


def summarize(num_layers: int, nbytes: int, results: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the speed relative to cp."""
    row: dict[str, Any] = {"layers": num_layers, "gb": nbytes / 1e9}
    for name in results.keys() - {"same_bytes_back"}:
        runs = results[name]
        row[f"{name}_gb_per_s"] = nbytes / 1e9 / statistics.median(one["seconds"] for one in runs)
        if "peak_anonymous_gib" in runs[0]:
            row[f"{name}_peak_anonymous_gib"] = max(one["peak_anonymous_gib"] for one in runs)
    for name in results.keys() - {"same_bytes_back", "cp"}:
        row[f"{name}_of_cp"] = row[f"{name}_gb_per_s"] / row["cp_gb_per_s"]
    largest = GEOMETRY["vocab_size"] * GEOMETRY["hidden_size"] * 2 / 2**30
    return {**dict(sorted(row.items())), "largest_tensor_gib": largest, "single_runs": results}


def main() -> None:
    """Measure each depth and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scratch", type=Path, help="folder to make, and to remove at the end")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 6])
    parser.add_argument("--repeats", type=int, nargs="+", default=[3, 3], help="of each depth")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/records/conversion.json")
    arguments = parser.parse_args()
    rows = []
    for num_layers, repeats in zip(arguments.layers, arguments.repeats, strict=True):
        scratch = arguments.scratch / f"layers_{num_layers}"
        try:
            nbytes = make_folder(scratch / "hf", num_layers)
            print(f"{num_layers} layers, {nbytes / 1e9:.1f} GB", flush=True)
            rows.append(summarize(num_layers, nbytes, alternate(scratch, repeats)))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        write_record(arguments.output, rows)


def write_record(path: Path, rows: list[dict[str, Any]]) -> None:
    """Say what was measured so far."""
    git = read_git_state(ROOT)
    record = {
        "what": "conversion of bfloat16 weights of 70B geometry against cp; every step starts "
        "with a flushed disk and none of its files in the page cache, and ends with fsync",
        "commit": None if git is None else git.commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other work",
        "versions": library_versions(),
        "rows": rows,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
