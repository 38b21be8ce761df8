"""``longrlvr evaluate --benchmark`` from the command line, with a random model on real files.

Promise: the outputs are those of every question, in the benchmark's format, and are scored; the
same command repeated asks nothing and scores the same.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.unit.evaluation.benchmarks.benchmark_files import save_json, squad

ROOT = Path(__file__).parents[2]
NUM_TOKENS = 257  # 256 bytes and the end of sequence


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_byte_tokenizer(tmp_path_factory.mktemp("model"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def recipe(model):
    return {
        "kind": "train",
        "run": {"name": "r", "dir": "nowhere"},
        "model": {"path": str(model), "dtype": "fp32"},
        "data": {"train": {"kind": "toy"}, "max_prompt_tokens": 2000},
        "rollout": {"prompts_per_step": 1, "group_size": 2, "max_response_tokens": 8},
        "algorithm": {"micro_batch_tokens": 3000},
        "optimizer": {"lr": 0.001},
        "trainer": {"steps": 1},
    }


def evaluate(tmp_path, model, source):
    benchmark = {"source": source, "max_prompt_tokens": 1800, "max_response_tokens": 8}
    command = [
        *(sys.executable, "-m", "megatron_longrlvr", "evaluate"),
        str(save_json(tmp_path / "recipe.yaml", recipe(model))),
        *("--benchmark", str(save_json(tmp_path / "benchmark.yaml", benchmark))),
        *("--output", str(tmp_path / "out"), "--json", str(tmp_path / "scores.json")),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_benchmark_is_asked_scored_and_not_asked_again(tmp_path, model):
    path = save_json(tmp_path / "squad.json", squad())
    source = {"kind": "ruler_qa", "squad": str(path), "lengths": [1400], "num_questions": 2}
    first = evaluate(tmp_path, model, source)
    assert first.returncode == 0, first.stderr
    assert "2 questions to ask, 0 done before" in first.stderr
    assert "(ruler, 2 outputs)" in first.stdout
    (scores,) = json.loads((tmp_path / "scores.json").read_text())["files"]
    assert scores["num_outputs"] == 2
    again = evaluate(tmp_path, model, source)
    assert "0 questions to ask, 2 done before" in again.stderr
    assert again.stdout == first.stdout
