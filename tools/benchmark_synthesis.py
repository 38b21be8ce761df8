"""Measure speed and memory of reading, cleaning, chunking, embedding and clustering.

    python tools/benchmark_synthesis.py --scratch /tmp/synthesis

Documents are made-up words drawn from a Zipf law in paragraphs of twelve topics, about 64,000
tokens each; the tokenizer is a byte-level BPE trained on such text. Every size runs in a process of
its own, one stage after the other, with the offline embedder. Memory is its resident set, sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.observability.provenance import record_header
from tools.benchmark_audit import NUM_WORDS, RecordMaker, make_words, write_tokenizer

ROOT = Path(__file__).parents[1]
STAGES = ("read", "clean", "dedup", "chunk", "embed", "cluster")
TOPICS, TOPIC_WORDS, PARAGRAPH_WORDS = 12, 300, 150
DOCUMENT_WORDS = 40_000
SAMPLE_S = 0.2


def write_documents(path: Path, count: int, words: list[str]) -> None:
    """Write JSON lines unless they are there."""
    if path.exists():
        return
    draw = np.random.default_rng(count)
    vocabulary = np.array(words)
    maker = RecordMaker(words, seed=count)
    unfinished = path.with_suffix(".part")
    with unfinished.open("w") as file:
        for _ in range(count):
            topics = draw.integers(NUM_WORDS, size=(TOPICS, TOPIC_WORDS))
            paragraphs = []
            for _ in range(DOCUMENT_WORDS // PARAGRAPH_WORDS):
                own = vocabulary[draw.choice(topics[draw.integers(TOPICS)], PARAGRAPH_WORDS // 2)]
                mixed = [*own.tolist(), *maker.draw(PARAGRAPH_WORDS // 2)]
                paragraphs.append(" ".join(mixed) + ".")
            file.write(json.dumps({"text": "\n\n".join(paragraphs)}) + "\n")
    unfinished.rename(path)


def write_recipe(path: Path, documents: Path, tokenizer: Path) -> None:
    """The shipped recipe over these documents."""
    content = yaml.safe_load((RECIPES / "synthesis.yaml").read_text())
    content["run"]["dir"] = str(path.with_suffix(""))
    content["read"]["paths"] = [str(documents)]
    content["clean"] |= {"tokenizer": str(tokenizer), "max_tokens": 131_072, "languages": []}
    path.write_text(yaml.safe_dump(content))


def measure(recipe: Path) -> dict[str, Any]:
    """Run the stages and watch them."""
    command = [sys.executable, "-m", "megatron_longrlvr", "data", "run", str(recipe)]
    start, cpu_start = time.monotonic(), os.times()
    process = psutil.Popen(
        [*command, "--until", "cluster"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, process.memory_info().rss)
        time.sleep(SAMPLE_S)
    wall_s, cpu_end = time.monotonic() - start, os.times()
    assert process.returncode == 0, "the stages ran"
    output = process.stdout.read()
    seconds = {
        stage: int(re.findall(rf"{stage}: (?:\d+) of (?:\d+) in (\d+) s;", output)[-1])
        for stage in STAGES
    }
    run_dir = recipe.with_suffix("")
    counts = {
        path.parent.name[3:]: json.loads(path.read_text())["counts"]
        for path in sorted(run_dir.glob("*/manifest.json"))
    }
    return {
        "documents": counts["dedup"]["rows"],
        "clusters_drawn": counts["cluster"].get("rows", 0),
        "stage_s": seconds,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(sum(cpu_end[2:4]) - sum(cpu_start[2:4]), 1),
        "peak_rss_mib": round(peak / 2**20),
        "load_average_1min": round(os.getloadavg()[0], 1),
    }


def mean_tokens(run_dir: Path) -> int:
    """Of the documents that were kept."""
    from megatron_longrlvr.data.synthesis.folder import iter_columns

    sizes = [row["num_tokens"] for row in iter_columns(run_dir / "03-dedup", ["num_tokens"])]
    return round(sum(sizes) / len(sizes))


def main() -> None:
    """Run all sizes and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="for some GB of files")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/records/synthesis.json")
    parser.add_argument("--documents", type=int, nargs="+", default=[100, 1000])
    arguments = parser.parse_args()
    scratch = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    words = make_words()
    if not (scratch / "tokenizer").is_dir():
        write_tokenizer(scratch / "tokenizer", RecordMaker(words, seed=1))
    runs = []
    for count in arguments.documents:
        documents, recipe = scratch / f"{count}.jsonl", scratch / f"run_{count}.yaml"
        write_documents(documents, count, words)
        write_recipe(recipe, documents, scratch / "tokenizer")
        run = measure(recipe)
        runs.append({"tokens_mean": mean_tokens(recipe.with_suffix("")), **run})
        print(json.dumps(runs[-1]))
    header = record_header(
        "longrlvr data, read to cluster, on made-up documents; seconds by stage, one process",
        more_libraries=["scikit-learn", "datasketch"],
    )
    arguments.output.write_text(json.dumps({**header, "runs": runs}, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
