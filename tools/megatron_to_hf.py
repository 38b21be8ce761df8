"""Convert a torch_dist checkpoint to a Hugging Face folder that transformers and vLLM load.

    python tools/megatron_to_hf.py runs/mine models/mine --dry-run
    python tools/megatron_to_hf.py runs/mine/checkpoints/step_000120 models/mine
    torchrun --nproc-per-node 8 tools/megatron_to_hf.py checkpoints/llama-70b models/llama-70b

The source is a converted checkpoint, a run (its newest checkpoint) or one checkpoint of a run.
Configuration and tokenizer come from the model that the run started from, or from --model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_longrlvr.conversion.megatron_to_hf import plan_export, run_export
from megatron_longrlvr.conversion.progress import progress_bar
from megatron_longrlvr.conversion.ranks import started_ranks
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.errors import CheckpointError, ConfigError


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="checkpoint or run")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--model", type=Path, help="folder with config.json and tokenizer")
    parser.add_argument("--max-shard-gb", type=float, default=5.0, help="largest weight file")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder there")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written")
    return parser.parse_args()


def main() -> None:
    """Plan, show or convert."""
    arguments = parse()
    with started_ranks() as ranks:
        source = find_source(arguments.source, model=arguments.model)
        work = plan_export(source, max_shard_gb=arguments.max_shard_gb)
        if arguments.dry_run:
            if ranks.rank == 0:
                for file in work.files:
                    print(f"{file.name}  {len(file.places)} tensors  {file.nbytes / 1e9:.3f} GB")
                print(f"copied: {', '.join(work.copied_files)}")
                print(f"{work.nbytes / 1e9:.3f} GB to {arguments.target}")
                print(f"values held by a rank: at most {work.peak_bytes / 2**30:.3f} GiB")
            return
        total = work.nbytes // ranks.size
        title = "to safetensors" if ranks.size == 1 else f"to safetensors, rank 0 of {ranks.size}"
        with progress_bar(title, total_bytes=total, is_shown=ranks.rank == 0) as advance:
            run_export(
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
        sys.exit(f"megatron_to_hf: {error}")
