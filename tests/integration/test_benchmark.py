"""``longrlvr evaluate --benchmark`` from the command line, with a random model on real files.

Promise: the outputs are those of every question, in the benchmark's format, and are scored; the
same command repeated asks nothing and scores the same. Several ranks, data-parallel or not, write
the file that one rank writes, also where they go on with what one rank has begun. The recipe's
engine can be replaced on the command line; lengths are the benchmark's, not the recipe's.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.evaluation.benchmarks.command import evaluate_benchmark
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.unit.evaluation.benchmarks.benchmark_files import longbench, save_json, squad

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


def files(tmp_path, model, source, **changes):
    benchmark = {"source": source, "max_prompt_tokens": 1800, "max_response_tokens": 8, **changes}
    return (
        str(save_json(tmp_path / "recipe.yaml", recipe(model))),
        str(save_json(tmp_path / "benchmark.yaml", benchmark)),
    )


def evaluate(tmp_path, model, source):
    recipe_file, benchmark_file = files(tmp_path, model, source)
    command = [
        *(sys.executable, "-m", "megatron_longrlvr", "evaluate"),
        *(recipe_file, "--benchmark", benchmark_file),
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


def ask(_rank, _world_size, recipe_file, benchmark_file, folder, overrides=()):
    evaluate_benchmark(
        recipe_file, overrides, benchmark=benchmark_file, folder=folder, json_path=None
    )
    return (folder / "outputs.jsonl").read_bytes()


def refusal(*arguments):
    try:
        ask(*arguments)
    except (ConfigError, DataError) as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def five_questions(tmp_path_factory, model):
    """Files of a benchmark; 5 is no multiple of the questions that 2 ranks ask at once."""
    folder = tmp_path_factory.mktemp("five")
    path = save_json(folder / "squad.json", squad())
    source = {"kind": "ruler_qa", "squad": str(path), "lengths": [1400], "num_questions": 5}
    return files(
        folder, model, source, samples_per_question=2, temperature=1.0, questions_per_batch=2
    )


@pytest.fixture(scope="module")
def one_rank(pool1, five_questions, tmp_path_factory):
    (content,) = pool1.run(ask, *five_questions, tmp_path_factory.mktemp("one"))
    lines = [json.loads(line) for line in content.splitlines()]
    assert [(one["index"], one["sample_index"]) for one in lines] == [
        (question, sample) for question in range(5) for sample in range(2)
    ]
    assert len({one["pred"] for one in lines}) == 10
    return content


@pytest.mark.parametrize("layout", [(), ("layout.tp=2",)], ids=["dp2", "tp2"])
def test_two_ranks_write_the_file_of_one(pool2, five_questions, one_rank, tmp_path, layout):
    assert pool2.run(ask, *five_questions, tmp_path, layout)[0] == one_rank


def test_two_ranks_go_on_where_one_was_stopped(pool2, five_questions, one_rank, tmp_path):
    pool2.run(ask, *five_questions, tmp_path)
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(one_rank[: len(one_rank) // 2])
    assert pool2.run(ask, *five_questions, tmp_path)[0] == one_rank


def test_question_of_one_rank_that_cannot_be_asked_ends_all_ranks(pool2, model, tmp_path):
    records = [longbench(_id="short"), longbench(_id="long", question="Which city? " * 200)]
    source = {"kind": "longbench_v2", "path": str(save_json(tmp_path / "lb.json", records))}
    found = pool2.run(refusal, *files(tmp_path, model, source), tmp_path / "out")
    # The second question is asked by the second rank.
    assert found[0] == found[1]
    assert found[0].endswith("lb.json:2: the question alone is above max_prompt_tokens=1800")


def test_folder_of_other_settings_is_refused_on_all_ranks(pool2, five_questions, tmp_path):
    (tmp_path / "benchmark.json").write_text("{}")
    found = pool2.run(refusal, *five_questions, tmp_path)
    assert found[0] == found[1]
    assert "holds outputs of other settings" in found[0]


def test_lengths_of_the_benchmark_are_those_that_must_fit_the_model(pool1, model, tmp_path):
    path = save_json(tmp_path / "squad.json", squad())
    source = {"kind": "ruler_qa", "squad": str(path), "lengths": [1400]}
    (found,) = pool1.run(
        refusal, *files(tmp_path, model, source, max_prompt_tokens=2500), tmp_path / "out"
    )
    assert "add up to 2508; the model reads 2048" in found


def test_engine_of_the_command_line_takes_the_place_of_the_recipes(pool1, five_questions, tmp_path):
    engine = ("rollout.engine=vllm_colocated", "rollout.vllm.tensor_parallel=2")
    (found,) = pool1.run(refusal, *five_questions, tmp_path / "out", engine)
    assert found.startswith("rollout.vllm.tensor_parallel=2 does not divide the 1 processes")
