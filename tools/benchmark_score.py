"""Measure how long ``longrlvr score`` takes on a large file of made-up outputs.

    python tools/benchmark_score.py --megabytes 100 --record tests/records/score.json

The outputs have the shape of real ones: reasoning of about 1.5 KB, a citation and an answer block,
one response in ten without blocks. Each format is measured from the start of the command to its
end, reading, scoring, intervals and tables included; MB are 1000**2 bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from megatron_longrlvr.observability.provenance import record_header

MEGABYTE = 1000**2
# Words that the rules and parsers look at among words that they pass over.
WORDS = [
    *("the", "duchy", "was", "a", "principality", "of", "evidence", "therefore,", "conclude"),
    *("option", "(B)", "<CHUNK_12>", "paris", "1066", "not", "because"),
]


def main() -> None:
    """Read arguments, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ruler", "longreason", "samples"):
            path = Path(folder) / f"{name}.jsonl"
            num_outputs = write_outputs(path, name, arguments.megabytes * MEGABYTE)
            for num_processes in arguments.processes:
                seconds = time_command(path, num_processes)
                run = {"format": name, "outputs": num_outputs, "processes": num_processes}
                runs.append({**run, "seconds": round(seconds, 2)})
                print(json.dumps(runs[-1]), flush=True)
            path.unlink()
    if arguments.record is not None:
        record = describe(arguments.megabytes, runs)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def write_outputs(path: Path, name: str, num_bytes: int) -> int:
    """Write records until the file has the size; returns their number."""
    generator = random.Random(0)
    written = index = 0
    with path.open("w") as file:
        while written < num_bytes:
            written += file.write(json.dumps(make_record(name, index, generator)) + "\n")
            index += 1
    return index


def make_record(name: str, index: int, generator: random.Random) -> dict[str, object]:
    """One output in a benchmark's format."""
    text = " ".join(generator.choices(WORDS, k=generator.randint(150, 350))) + "</think>\n"
    if generator.random() < 0.9:
        ids = " ".join(f"<CHUNK_{generator.randrange(64)}>" for _ in range(4))
        answer = generator.choice(["Paris", "(B) the duchy", "C. London", "in 1066"])
        text += f"<useful_chunks>{ids}</useful_chunks>\n<answer>\n{answer}\n</answer>"
    if name == "ruler":
        references = ["Paris", "the city of Paris"]
        return {"index": index, "task": "qa_1", "ctx": 32768, "outputs": references, "pred": text}
    if name == "longreason":
        return {"id": str(index), "split": "32k", "answer": "B", "response": text}
    evidence = sorted(generator.sample(range(64), 3))
    return {
        "prompt_id": str(index),
        "response_text": text,
        "reference_answers": ["Paris"],
        "evidence_chunk_ids": evidence,
    }


def time_command(path: Path, num_processes: int) -> float:
    """Seconds from the start of the command to its end."""
    command = [sys.executable, "-m", "megatron_longrlvr", "score", str(path)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--processes", str(num_processes)], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def describe(megabytes: int, runs: list[dict[str, object]]) -> dict[str, object]:
    """The record: what was measured, where and on which commit."""
    what = f"seconds of longrlvr score on a file of {megabytes} MB, by format and processes"
    return {**record_header(what), "runs": runs}


if __name__ == "__main__":
    main()
