"""Convert a Hugging Face folder to a torch_dist checkpoint that loads into any layout.

    python tools/hf_to_megatron.py models/Llama-3.1-70B checkpoints/llama-70b --dry-run
    torchrun --nproc-per-node 8 tools/hf_to_megatron.py models/Llama-3.1-70B checkpoints/llama-70b

The result holds configuration, tokenizer and provenance too: a recipe's model.path can name it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.pieces import share_of_rank
from megatron_longrlvr.conversion.progress import progress_bar
from megatron_longrlvr.conversion.ranks import started_ranks
from megatron_longrlvr.errors import CheckpointError, ConfigError

DTYPES = {"keep": None, "bf16": torch.bfloat16, "fp32": torch.float32}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="Hugging Face folder with safetensors")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="type of all weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint there")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written")
    return parser.parse_args()


def main() -> None:
    """Plan, show or convert."""
    arguments = parse()
    with started_ranks() as ranks:
        work = plan_import(arguments.source, dtype=DTYPES[arguments.dtype])
        if arguments.dry_run:
            if ranks.rank == 0:
                for key, shape in work.plan.shape_by_key.items():
                    print(f"{key}  {list(shape)}  {work.plan.dtype_by_key[key]}")
                print(f"copied: {', '.join(work.copied_files)}")
                print(f"{work.plan.nbytes / 1e9:.3f} GB of weights to {arguments.target}")
                print(f"values held by a rank: at most {work.peak_bytes / 2**30:.3f} GiB")
            return
        mine = share_of_rank(work.plan.pieces, rank=ranks.rank, num_ranks=ranks.size)
        total = sum(piece.nbytes for piece in mine)
        title = "to torch_dist" if ranks.size == 1 else f"to torch_dist, rank 0 of {ranks.size}"
        with progress_bar(title, total_bytes=total, is_shown=ranks.rank == 0) as advance:
            run_import(
                work,
                arguments.target,
                ranks=ranks,
                overwrite=arguments.overwrite,
                advance=advance,
            )


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, ConfigError) as error:
        sys.exit(f"hf_to_megatron: {error}")
