"""Compare the tensors of two folders: Hugging Face, converted, or checkpoints of runs.

    python tools/verify_conversion.py models/Llama-3.1-8B checkpoints/llama-8b
    python tools/verify_conversion.py runs/mine models/mine --model models/start

Prints every tensor that is not equal bit for bit, or all with --all, and exits with 1 if there
is one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from megatron_longrlvr.conversion.comparison import Verdict, compare_tensors, open_tensors
from megatron_longrlvr.conversion.progress import progress_bar
from megatron_longrlvr.errors import CheckpointError, ConfigError


def main() -> int:
    """Compare and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, help="what is expected")
    parser.add_argument("second", type=Path, help="what was made of it")
    parser.add_argument("--model", type=Path, help="folder that describes a run's checkpoint")
    parser.add_argument("--all", action="store_true", help="print equal tensors too")
    arguments = parser.parse_args()
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
    return 0 if set(counts) <= {Verdict.EQUAL} else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CheckpointError, ConfigError) as error:
        sys.exit(f"verify_conversion: {error}")
