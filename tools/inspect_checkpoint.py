"""Print what a checkpoint holds, per tensor and in sum, how it was made and whether it is whole.

    python tools/inspect_checkpoint.py runs/mine/checkpoints/step_000120
    python tools/inspect_checkpoint.py checkpoints/llama-70b --summary

Exits with 1 where the checkpoint is not whole.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from megatron_longrlvr.checkpoint.manifest import read_checkpoint
from megatron_longrlvr.checkpoint.weights import WEIGHTS_DIRECTORY
from megatron_longrlvr.conversion.folder import read_converted_manifest
from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.errors import CheckpointError


def describe_origin(folder: Path) -> str:
    """One line on what made the checkpoint; raises where its files do not fit its manifest."""
    converted = read_converted_manifest(folder)
    if converted is not None:
        return f"converted from {converted.converted_from}, {converted.saved_utc}"
    saved = read_checkpoint(folder).manifest
    layout = " ".join(f"{axis}={degree}" for axis, degree in saved.layout.items())
    return f"step {saved.step}, {saved.dtype}, saved by {layout}, {saved.saved_utc}"


def main() -> None:
    """Print the tensors, the sums, and the verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="converted checkpoint or step_... folder")
    parser.add_argument("--summary", action="store_true", help="leave out the single tensors")
    arguments = parser.parse_args()
    reader = TorchDistReader(arguments.checkpoint / WEIGHTS_DIRECTORY)
    bytes_by_part: Counter[str] = Counter()
    values_by_part: Counter[str] = Counter()
    for key, stored in reader.tensors.items():
        part = "optimizer" if key.startswith("optimizer.") else "weights"
        values_by_part[part] += math.prod(stored.shape)
        bytes_by_part[part] += math.prod(stored.shape) * stored.dtype.itemsize
        if not arguments.summary:
            print(f"{key}  {list(stored.shape)}  {stored.dtype}  {len(stored.chunks)} chunks")
    for part, nbytes in bytes_by_part.items():
        print(f"{part}: {values_by_part[part]:,} values, {nbytes / 1e9:.3f} GB")
    print(describe_origin(arguments.checkpoint))
    reader.check()
    print("whole")


if __name__ == "__main__":
    try:
        main()
    except CheckpointError as error:
        sys.exit(f"inspect_checkpoint: not whole: {error}")
