"""Measure speed and memory of ``longrlvr audit`` on made-up files, and write the record.

    python tools/benchmark_audit.py --scratch /tmp/audit --output tests/records/audit.json

Documents are words drawn from a Zipf law, in chunks, with questions of their own; the tokenizer is
a byte-level BPE trained on such text. Every size runs in a process of its own. Memory is the
resident set of that process and its workers together, sampled while it runs; pages that they share
count once for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from megatron_longrlvr.observability.provenance import record_header

ROOT = Path(__file__).parents[1]
NUM_WORDS = 30_000
CHUNKS, CHUNK_WORDS = 32, 70
VOCABULARY = 16_000
SAMPLE_S = 0.2


def make_words() -> list[str]:
    """Made-up words of two to four syllables."""
    draw = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghjklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    words: dict[str, None] = {}
    while len(words) < NUM_WORDS:
        words["".join(draw.choice(syllables, size=draw.integers(2, 5)))] = None
    return list(words)


class RecordMaker:
    """Draws documents and questions."""

    def __init__(self, words: list[str], *, seed: int) -> None:
        self._words = words
        self._draw = np.random.default_rng(seed)
        weights = 1 / np.arange(10, len(words) + 10)
        self._cumulative = np.cumsum(weights / weights.sum())

    def draw(self, num_words: int) -> list[str]:
        """Words that repeat as those of a language do."""
        places = np.searchsorted(self._cumulative, self._draw.random(num_words))
        return [self._words[min(place, NUM_WORDS - 1)] for place in places.tolist()]

    def record(self) -> dict[str, Any]:
        """A document of a few thousand tokens and a question about it."""
        answer = " ".join(self.draw(4))
        words = self.draw(CHUNKS * CHUNK_WORDS)
        starts = range(0, len(words), CHUNK_WORDS)
        chunks = [" ".join(words[start : start + CHUNK_WORDS]) + ". " for start in starts]
        evidence = int(self._draw.integers(CHUNKS))
        chunks[evidence] += answer
        return {
            "chunks": chunks,
            "question": f"What about {' '.join(self.draw(12))}?",
            "answer": answer,
            "evidence": [evidence],
        }


def write_tokenizer(folder: Path, maker: RecordMaker) -> None:
    """Train a byte-level BPE and save it as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" ".join(maker.draw(2000)) for _ in range(500)), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def write_records(path: Path, num_rows: int, maker: RecordMaker) -> None:
    """Write a file unless it is there."""
    if path.exists():
        return
    unfinished = path.with_suffix(".part")
    with unfinished.open("w") as file:
        for _ in range(num_rows):
            file.write(json.dumps(maker.record()) + "\n")
    unfinished.rename(path)


def measure(data: Path, evaluation: Path, tokenizer: Path, workers: int) -> dict[str, Any]:
    """Run one audit and watch it."""
    output = data.with_suffix(".audit.json")
    command = [sys.executable, "-m", "megatron_longrlvr", "audit", str(data), "--eval"]
    command += [str(evaluation), "--tokenizer", str(tokenizer), "--max-prompt", "8192"]
    command += ["--workers", str(workers), "--json", str(output)]
    start, cpu_start = time.monotonic(), os.times()
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process))
        time.sleep(SAMPLE_S)
    wall_s, cpu_end = time.monotonic() - start, os.times()
    report = json.loads(output.read_text())
    cpu_s = sum(cpu_end[2:4]) - sum(cpu_start[2:4])
    return {
        "rows": report["num_rows"],
        "eval_rows": report["num_eval_rows"],
        "workers": workers,
        "file_mb": round(data.stat().st_size / 1e6),
        "prompt_tokens_mean": report["distributions"]["prompt_tokens"]["mean"],
        "findings": len(report["findings"]),
        "exit_code": process.returncode,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "rows_per_s": round(report["num_rows"] / wall_s, 1),
        "peak_rss_mib": round(peak / 2**20),
        "load_average_1min": round(os.getloadavg()[0], 1),
    }


def resident_bytes(process: psutil.Process) -> int:
    """Of a process and all below it."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    """Run all sizes and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="for files of up to a GB")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/records/audit.json")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--eval-rows", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    scratch = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    words = make_words()
    write_tokenizer(scratch / "tokenizer", RecordMaker(words, seed=1))
    evaluation = scratch / "eval.jsonl"
    write_records(evaluation, arguments.eval_rows, RecordMaker(words, seed=2))
    results = []
    for num_rows in arguments.rows:
        data = scratch / f"train_{num_rows}.jsonl"
        write_records(data, num_rows, RecordMaker(words, seed=3))
        results.append(measure(data, evaluation, scratch / "tokenizer", arguments.workers))
        print(json.dumps(results[-1]))
    header = record_header(
        "longrlvr audit on made-up JSON lines, evaluation file included",
        note="shared with other work",
    )
    record = {**header, "runs": results}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
