"""Compare the tensors of two folders: Hugging Face, converted, or checkpoints of runs.

    python tools/verify_conversion.py models/Llama-3.1-8B checkpoints/llama-8b
    python tools/verify_conversion.py models/Llama-3.1-8B checkpoints/llama-8b --logits
    python tools/verify_conversion.py runs/mine models/mine --model models/start

Prints every tensor that is not equal bit for bit, or all with --all. With --logits both models
also run on a text in fp32, a Hugging Face folder by transformers and a checkpoint by megatron-core;
where their logits differ, the difference is printed layer by layer. Exits with 1 on a difference.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from megatron_longrlvr.conversion.comparison import (
    Verdict,
    compare_tensors,
    is_hf_folder,
    open_tensors,
)
from megatron_longrlvr.conversion.progress import progress_bar
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.errors import CheckpointError, ConfigError

TEXT = (
    "The observatory opened in 1894. Its first director, a quiet man, kept a diary of 312 nights; "
    "only the last page mentions the comet. caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{TELESCOPE}"
)
# Two fp32 implementations of 30 layers differ by a few 1e-5 at logits of 20.
LOGIT_ATOL = 1e-3


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, help="what is expected")
    parser.add_argument("second", type=Path, help="what was made of it")
    parser.add_argument("--model", type=Path, help="folder that describes a run's checkpoint")
    parser.add_argument("--all", action="store_true", help="print equal tensors too")
    parser.add_argument("--logits", action="store_true", help="run both on a text, too")
    parser.add_argument("--text", default=TEXT, help="for --logits")
    parser.add_argument("--atol", type=float, default=LOGIT_ATOL, help="for --logits")
    return parser.parse_args()


def compare_all(arguments: argparse.Namespace) -> bool:
    """Report on the tensors; True where all are equal."""
    counts: Counter[Verdict] = Counter()
    with (
        open_tensors(arguments.first, model=arguments.model) as first,
        open_tensors(arguments.second, model=arguments.model) as second,
    ):
        total = sum(
            math.prod(shape) * first.dtype(name).itemsize for name, shape in first.shapes().items()
        )
        with progress_bar("comparing", total_bytes=total) as advance:
            results = list(compare_tensors(first, second, advance=advance))
    for one in results:
        counts[one.verdict] += 1
        if arguments.all or one.verdict is not Verdict.EQUAL:
            print(f"{one.verdict}  {one.name}  max |diff| {one.max_abs_diff:g}  {one.detail}")
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return set(counts) <= {Verdict.EQUAL}


def compare_logits(arguments: argparse.Namespace) -> bool:
    """Report on a forward pass; True where the logits agree."""
    # Only here: tensors are compared without transformers and without the learner.
    from megatron_longrlvr.conversion.activations import (
        disagreement,
        run_learner,
        run_transformers,
        tokenize,
    )

    folders = (arguments.first, arguments.second)
    sources = [
        None if is_hf_folder(folder) else find_source(folder, model=arguments.model)
        for folder in folders
    ]
    token_ids = tokenize(
        folders[0] if sources[0] is None else sources[0].description, arguments.text
    )
    first, second = (
        run_transformers(folder, token_ids) if source is None else run_learner(source, token_ids)
        for folder, source in zip(folders, sources, strict=True)
    )
    found = disagreement(first, second)
    print(
        f"logits of {len(token_ids)} tokens: max |diff| {found.logits:.2e} at values up to "
        f"{float(first.logits.abs().max()):.1f}, {found.num_other_choices} other likeliest tokens"
    )
    if found.logits <= arguments.atol:
        return True
    for number, largest in enumerate(found.layers):
        where = "embedding" if number == 0 else f"layer {number - 1}"
        print(f"{where}: max |diff| {largest:.2e}")
    return False


def main() -> int:
    """Compare and report."""
    arguments = parse()
    are_equal = compare_all(arguments)
    if arguments.logits:
        are_equal = compare_logits(arguments) and are_equal
    return 0 if are_equal else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CheckpointError, ConfigError) as error:
        sys.exit(f"verify_conversion: {error}")
