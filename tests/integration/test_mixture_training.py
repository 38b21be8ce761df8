"""Whole GRPO runs of mixtures whose experts are shared out over two ranks.

Promise: with losses of the router and with replay of the engine's choices, two ranks of EP2 write
the samples and metrics of one; a run that was stopped goes on bit for bit; what it exports is what
transformers reads. Mixtral starts from the shipped start and earns rewards; Qwen3-MoE knows nothing
and learns from its router's losses alone.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import list_samples, read_samples
from megatron_longrlvr.trainer.session import run_training
from tests.support.learners import start_policy
from tests.support.runs import toy_config
from tests.support.toy_mixture import save_random_mixture, save_toy_mixture
from tests.support.vllm_runs import random_prompts

MEASURED = ("timing/", "memory/", "rollout/tokens_per_s", "packing/", "flops/")
LAYOUT_RTOL = 1e-3  # float32 sums in another order, over two updates
LAYOUT_ATOL = 1e-5
PARITY_ATOL = 1e-4  # log-probabilities of another implementation, in float32
ROUTER = {"balance_coefficient": 0.01, "z_coefficient": 0.001}
SAVERS = {"mixtral": save_toy_mixture, "qwen3_moe": save_random_mixture}
TIMEOUT_S = 300.0


def run(rank, world_size, config):  # noqa: ARG001
    try:
        return run_training(config)
    except ConfigError as error:
        return str(error)


def config_of(folder, run_dir, **changes):
    settings = {
        "model__path": str(folder),
        "model__router": ROUTER,
        "layout__ep": 2,
        "rollout__routing_replay": True,
        "algorithm__drop_uninformative_groups": False,
        "trainer__steps": 2,
        "trainer__save_every": 1,
        "trainer__eval_every": 0,
        "trainer__export_hf": True,
    }
    return toy_config(run_dir, **{**settings, **changes})


def metrics(run_dir):
    """Of each step, without what was not measured."""
    return [
        {
            name: value
            for name, value in record.metrics.items()
            if value is not None and not name.startswith(MEASURED)
        }
        for record in read_metric_log(run_dir / "metrics.jsonl")
    ]


def written(run_dir):
    return sorted(
        (record.step, record.prompt_id, record.sample_index, record.response_text, record.reward)
        for path in list_samples(run_dir)
        for record in read_samples(path)
    )


@pytest.fixture(scope="module", params=SAVERS)
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param
    SAVERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def straight(pool2, folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("straight")
    assert pool2.run(run, config_of(folder, run_dir), timeout_s=TIMEOUT_S) == [0, 0]
    return run_dir


def test_a_run_learns_and_replays_what_the_engine_chose(folder, straight):
    found = metrics(straight)
    assert len(found) == 2
    for record in found:
        assert record["update/grad_norm"] > 0
        # The engine computes with the learner's own weights: the router would choose the same.
        assert record["update/router_replay_changed_frac"] < 0.01
        assert record["mismatch/gap_max"] < PARITY_ATOL
        assert record["update/expert_load_peak_max"] >= record["update/expert_load_peak_mean"] >= 1
        assert record["update/router_balance_loss"] == pytest.approx(1, abs=0.5)
    if folder.name == "mixtral":
        assert all(record["reward/std"] > 0 for record in found)


def test_two_ranks_write_what_one_writes(pool1, folder, straight, tmp_path):
    config = config_of(folder, tmp_path, layout__ep=1)
    assert pool1.run(run, config, timeout_s=TIMEOUT_S) == [0]
    assert written(tmp_path) == written(straight)
    for record, expected in zip(metrics(tmp_path), metrics(straight), strict=True):
        assert record == pytest.approx(expected, rel=LAYOUT_RTOL, abs=LAYOUT_ATOL)


def test_stopping_at_a_checkpoint_and_going_on_changes_nothing(pool2, folder, straight, tmp_path):
    for steps in (1, 2):
        config = config_of(folder, tmp_path, trainer__steps=steps)
        assert pool2.run(run, config, timeout_s=TIMEOUT_S) == [0, 0]
    assert metrics(tmp_path) == metrics(straight)
    assert written(tmp_path) == written(straight)
    mine, expected = (load_file(path / "hf" / "model.safetensors") for path in (tmp_path, straight))
    assert mine.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in mine.items())


def test_the_exported_folder_is_what_transformers_reads(pool2, straight, folder):
    before = AutoModelForCausalLM.from_pretrained(folder)
    after = AutoModelForCausalLM.from_pretrained(straight / "hf")
    moved = [
        name
        for name, parameter in after.state_dict().items()
        if not torch.equal(parameter, before.state_dict()[name])
    ]
    assert any("gate" in name for name in moved)
    (prompt,) = random_prompts([40], vocab_size=200)
    row = torch.tensor([prompt.token_ids])
    with torch.no_grad():
        expected = after(row).logits[0].log_softmax(-1)[:-1].gather(1, row[0, 1:, None])[:, 0]
    for learned in pool2.run(learner_logprobs, straight / "hf", prompt.token_ids):
        torch.testing.assert_close(learned[1:], expected, atol=PARITY_ATOL, rtol=0)


def learner_logprobs(rank, world_size, folder, token_ids):  # noqa: ARG001
    policy = start_policy(folder, {"ep": 2}, world_size)
    return policy.logprobs([unlearned_row(token_ids, num_given=1)], temperature=1.0)[0]


def test_replay_is_refused_for_a_model_without_experts(pool1, tmp_path):
    config = config_of("toy_start", tmp_path, layout__ep=1)
    (message,) = pool1.run(run, config, timeout_s=TIMEOUT_S)
    assert "rollout.routing_replay=true needs a mixture of experts" in message
