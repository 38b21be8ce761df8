"""Whole GRPO runs on the toy task, in real processes.

Promise: a run leaves the records it announces; stopped after a checkpoint and started again it
ends as if it had not stopped, bit for bit; a layout changes no sample and no reward; groups that
teach nothing are counted and change no weight.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_longrlvr.config.load import load_config, write_config
from megatron_longrlvr.config.sft import SftRunConfig
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary, write_toy_tokenizer
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import (
    list_alarms,
    list_heldout,
    list_samples,
    read_samples,
)
from megatron_longrlvr.trainer import sft
from megatron_longrlvr.trainer.loop import say_stopped
from megatron_longrlvr.trainer.session import STOPPED_EXIT_CODE, run_training
from tests.support.runs import toy_config
from tests.support.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[2]
# What a clock or an allocator measures; everything else must repeat.
MEASURED = ("timing/", "memory/", "rollout/tokens_per_s")
# Layouts order float32 sums differently.
LAYOUT_RTOL = 1e-4
LAYOUT_ATOL = 1e-6
# A single gap between log-probabilities of up to a few nats is such an order of sums.
LAYOUT_GAP_ATOL = 1e-5


def run(rank, world_size, config):  # noqa: ARG001
    return run_training(config)


def metrics(run_dir):
    """(kind, step) -> metrics that must repeat."""
    return {
        (record.kind.value, record.step): {
            name: value for name, value in record.metrics.items() if not name.startswith(MEASURED)
        }
        for record in read_metric_log(run_dir / "metrics.jsonl")
    }


def samples(run_dir, step=None):
    return sorted(
        (record.step, record.prompt_id, record.sample_index, record.response_text, record.reward)
        for path in list_samples(run_dir)
        for record in read_samples(path)
        if step in (None, record.step)
    )


@pytest.fixture(scope="module")
def straight(pool2, tmp_path_factory):
    """Four steps on two data-parallel ranks, without a stop."""
    run_dir = tmp_path_factory.mktemp("straight")
    assert pool2.run(run, toy_config(run_dir)) == [0, 0]
    return run_dir


def test_a_run_leaves_its_records(straight):
    assert list(metrics(straight)) == [
        ("eval", 0),
        ("train", 1),
        ("train", 2),
        ("eval", 2),
        ("train", 3),
        ("train", 4),
        ("eval", 4),
    ]
    assert json.loads((straight / "finished.json").read_text()) == {"steps": 4}
    assert [path.name for path in sorted((straight / "checkpoints").iterdir())] == [
        "step_000002",
        "step_000004",
    ]
    first = metrics(straight)["train", 1]
    # 4 prompts, 4 samples each, over both ranks.
    assert (first["rollout/prompts"], first["rollout/samples"]) == (4, 16)
    assert len(samples(straight)) == 4 * 16
    by_file = read_samples(list_samples(straight)[0])
    mean = sum(record.reward for record in by_file) / len(by_file)
    assert first["reward/mean"] == pytest.approx(mean)


def test_the_run_taught_something(straight):
    updates = [metrics(straight)["train", step] for step in range(1, 5)]
    assert all(update["update/skipped"] == 0 for update in updates)
    assert all(update["update/grad_norm"] > 0 for update in updates)


def test_a_finished_run_is_not_run_again(pool2, straight):
    before = (straight / "metrics.jsonl").read_bytes()
    assert pool2.run(run, toy_config(straight)) == [0, 0]
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_stopping_at_a_checkpoint_and_going_on_changes_nothing(pool2, straight, tmp_path):
    assert pool2.run(run, toy_config(tmp_path, trainer__steps=2)) == [0, 0]
    assert pool2.run(run, toy_config(tmp_path)) == [0, 0]
    assert metrics(tmp_path) == metrics(straight)
    assert samples(tmp_path) == samples(straight)


def test_measuring_gradients_by_term_changes_nothing_else(pool2, straight, tmp_path):
    config = toy_config(tmp_path, trainer__gradient_parts_every=2)
    assert pool2.run(run, config) == [0, 0]
    found = metrics(tmp_path)
    norms = {
        key: {name: record.pop(name) for name in list(record) if "signal/grad_norm" in name}
        for key, record in found.items()
    }
    assert found == metrics(straight)
    assert samples(tmp_path) == samples(straight)
    assert [key for key, measured in norms.items() if measured] == [("train", 2), ("train", 4)]
    # With one update a step, before clipping: the gradient of that update.
    for step in (2, 4):
        whole = norms["train", step]["signal/grad_norm_reward"]
        assert whole == pytest.approx(found["train", step]["update/grad_norm"], rel=LAYOUT_RTOL)


def test_diagnostics_are_logged_with_every_step(straight):
    for record in (metrics(straight)["train", step] for step in range(1, 5)):
        assert record["signal/flat_reward_frac"] == pytest.approx(
            1 - record["reward/groups_informative_frac"]
        )
        # Every prompt has four evidence chunks.
        assert record["grounding/evidence_from_4_recall_mean"] == pytest.approx(
            record["reward/context_recall_mean"]
        )
        assert 0 <= record["signal/others_cited_frac"] <= 1
        assert record["alarm/cites_nothing_frac"] >= 0


def test_held_out_responses_to_the_same_prompts_are_kept(straight):
    by_step = [read_samples(path) for path in list_heldout(straight)]
    assert [records[0].step for records in by_step] == [0, 2, 4]
    asked = [[record.prompt_id for record in records] for records in by_step]
    # Six held-out prompts, all of them below trainer.eval_samples.
    assert asked[0] == asked[1] == asked[2]
    assert len(set(asked[0])) == 6


def test_a_raised_alarm_keeps_examples(pool2, tmp_path):
    config = toy_config(
        tmp_path,
        trainer__steps=1,
        alarms={"cited_frac": 0.01, "raised_frac": 0.01, "examples": 1},
    )
    assert pool2.run(run, config) == [0, 0]
    (path,) = list_alarms(tmp_path)
    examples = read_samples(path)
    assert 1 <= len([one for one in examples if "cites_everything" in one.suspicions]) <= 2
    assert metrics(tmp_path)["train", 1]["alarm/raised"] >= 1


def test_stopping_while_the_critic_learns_alone_changes_nothing(pool2, tmp_path):
    def ppo(run_dir, **changes):
        return toy_config(
            run_dir,
            algorithm__advantage="gae",
            algorithm__whiten_advantages=True,
            algorithm__drop_uninformative_groups=False,
            critic={"optimizer": {"lr": 0.001, "warmup_steps": 3}, "warmup_steps": 2, "lam": 0.9},
            evaluation=None,
            trainer__eval_every=0,
            trainer__save_every=1,
            trainer__keep_checkpoints=9,
            **changes,
        )

    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert pool2.run(run, ppo(straight)) == [0, 0]
    assert pool2.run(run, ppo(resumed, trainer__steps=3)) == [0, 0]
    for step in (2, 3):  # as if killed after the first step, before the policy had learned
        shutil.rmtree(resumed / "checkpoints" / f"step_{step:06d}")
    (resumed / "finished.json").unlink()
    assert pool2.run(run, ppo(resumed)) == [0, 0]
    assert metrics(resumed) == metrics(straight)
    steps = [metrics(straight)["train", step] for step in range(1, 5)]
    assert [step["update/skipped"] for step in steps] == [1, 1, 0, 0]
    assert [step["flops/update_tflop"] > 0 for step in steps] == [False, False, True, True]
    for step in steps[2:]:
        # A number is read from each response token's hidden state of 64, and not 297 logits.
        logits = 2 * 64 * 296 * step["rollout/response_tokens"] / 1e12
        forward = step["flops/update_tflop"] / 3 - logits
        assert step["flops/critic_tflop"] == pytest.approx(4 * forward)
    # The head starts at 0 and says something once it has learned.
    assert steps[0]["critic/value_mean"] == 0
    assert all(step["critic/value_mean"] != 0 for step in steps[1:])
    assert [step["critic/lr"] for step in steps] == pytest.approx(
        [0.001 / 3, 0.002 / 3, 0.001, 0.001]
    )


@pytest.mark.parametrize("layout", [{"tp": 2}, {"pp": 2}, {"cp": 2}], ids=str)
def test_a_layout_changes_no_sample_and_no_reward(pool2, straight, tmp_path, layout):
    changes = {f"layout__{axis}": degree for axis, degree in layout.items()}
    config = toy_config(tmp_path, trainer__steps=1, **changes)
    assert pool2.run(run, config) == [0, 0]
    # Later steps start from weights that differ by rounding, which may turn a sample over.
    assert_near(metrics(tmp_path)["train", 1], metrics(straight)["train", 1])
    assert samples(tmp_path, step=1) == samples(straight, step=1)


def assert_near(actual, expected):
    """Samples and rewards to the letter, what the optimizer did up to the order of sums.

    How tokens are packed is the layout's own affair.
    """
    for name, value in expected.items():
        if name.startswith("packing/"):
            continue
        is_sampled = name.startswith(("rollout/", "reward/", "eval/"))
        rtol, atol = (1e-9, 0.0) if is_sampled else (LAYOUT_RTOL, LAYOUT_ATOL)
        if name.startswith("mismatch/"):
            atol = LAYOUT_GAP_ATOL
        expected_value = value if value is None else pytest.approx(value, rel=rtol, abs=atol)
        assert actual[name] == expected_value, name  # None: not measured


def test_groups_that_teach_nothing_are_counted_and_change_no_weight(pool2, tmp_path):
    # A group of identical greedy-like samples has no spread: near-zero temperature.
    config = toy_config(
        tmp_path, rewards__variant="outcome_only", rollout__temperature=1e-4, trainer__steps=2
    )
    assert pool2.run(run, config) == [0, 0]
    for step in (1, 2):
        record = metrics(tmp_path)["train", step]
        assert record["reward/groups_dropped_frac"] == 1
        assert record["update/skipped"] == 1
    assert metrics(tmp_path)["eval", 0] == metrics(tmp_path)["eval", 2]


def test_another_configuration_is_refused_by_every_rank(pool2, straight):
    for message in pool2.run(refused, toy_config(straight, optimizer__lr=0.5)):
        assert "optimizer.lr: 0.001 -> 0.5" in message


def refused(rank, world_size, config):  # noqa: ARG001
    try:
        run_training(config)
    except ConfigError as error:
        return str(error)
    return "not refused"


def test_tokens_that_the_model_does_not_know_are_refused(pool2, tmp_path):
    folder, num_words = tmp_path / "model", len(toy_vocabulary())
    save_tiny_model(folder, "llama", vocab_size=num_words - 1)
    write_toy_tokenizer(folder)
    messages = pool2.run(refused, toy_config(tmp_path / "run", model__path=str(folder)))
    for message in messages:
        assert f"knows {num_words} tokens and the model {num_words - 1}" in message


def test_a_signal_ends_the_run_after_its_step_and_the_same_command_goes_on(tmp_path, straight):
    config = toy_config(tmp_path / "run", trainer__save_every=1, trainer__keep_checkpoints=9)
    recipe = tmp_path / "recipe.json"  # JSON is YAML
    write_config(config, recipe)
    process = start(recipe)
    for line in process.stdout:
        if line.startswith("step 1/"):
            process.send_signal(signal.SIGINT)
            break
    process.stdout.read()
    assert process.wait(timeout=60) == STOPPED_EXIT_CODE
    assert not (tmp_path / "run" / "finished.json").exists()
    done = max(step for kind, step in metrics(tmp_path / "run") if kind == "train")
    assert 1 <= done < 4
    again = start(recipe)
    printed = again.stdout.read()
    assert again.wait(timeout=60) == 0, printed
    assert f"after step {done}" in printed
    resumed, expected = metrics(tmp_path / "run"), metrics(straight)
    assert resumed.keys() == expected.keys()
    # One process instead of two: the first step's sums in another order.
    assert_near(resumed["train", 1], expected["train", 1])


@pytest.mark.parametrize(("save_every", "said"), [(1, "goes on"), (0, "starts anew, for")])
def test_a_run_that_saves_nothing_says_so_when_it_is_stopped(save_every, said):
    heard = []
    say_stopped(
        SimpleNamespace(
            saver=SimpleNamespace(finish=lambda: None),
            trainer=SimpleNamespace(save_every=save_every),
            journal=SimpleNamespace(say=heard.append),
        ),
        2,
    )
    (sentence,) = heard
    assert f"after step 2, as asked; the same command {said}" in sentence


def test_a_signal_to_one_rank_ends_supervised_training_on_all(pool2, tmp_path):
    assert pool2.run(supervised, str(tmp_path / "run")) == [STOPPED_EXIT_CODE] * 2


def supervised(rank, world_size, folder):  # noqa: ARG001
    stage = "{steps: 2, kinds: [{task: {kind: toy, num_chunks: 4, num_evidence: 2}}]}"
    settings = [f"run.dir={folder}", f"demonstrations.stages=[{stage}]", "evaluation=null"]
    config = load_config(
        "toy_sft_short",
        [*settings, "demonstrations.batch_size=4", "optimizer.warmup_steps=1"],
        SftRunConfig,
    )
    told = SimpleNamespace(signal_name="SIGTERM" if rank == 1 else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "StopRequest", lambda: told)
        return sft.run_sft(config)


def start(recipe):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "megatron_longrlvr", "train", str(recipe)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
