"""Runs driven by NeMo-Aligner's own ``PPOTrainer.fit()``, beside the same runs in our loop.

Promise: from the same start and the same scripted samples both loops take the same advantages,
losses, gradient norms and weights, in every layout, to the last bit: they ask the same parts for
the same things in the same order. So it is with group advantages, and with a critic, whose
advantages and returns are those that NeMo-Aligner itself makes of the critic's values. A run may
change its loop at a checkpoint. Stops, outages and steps that teach nothing end alike.

Not covered: NeMo itself, which is not installed here; names stand in for it. Runs with it are
recorded in ``tests/records/nemo.json``.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from megatron_longrlvr.algorithms.mismatch import samples_of
from megatron_longrlvr.aligner import loop as aligner_loop
from megatron_longrlvr.aligner.library import PPOTrainer
from megatron_longrlvr.aligner.records import RunClock
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.data.response_format import render_response
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import list_samples, read_samples
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.trainer import loop as native_loop
from megatron_longrlvr.trainer.assembly import assemble
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.session import run_training, share_run_dir
from tests.support.judge_server import JudgeServer, Reply, verdict
from tests.support.judges import judge_settings
from tests.support.learners import gather_critic_weights, gather_weights
from tests.support.runs import toy_config

LOOPS = {"native": native_loop.train, "nemo_aligner": aligner_loop.train}
# What a clock or an allocator measures, and what one of the loops says alone.
NOT_COMPARED = ("timing/", "memory/", "rollout/tokens_per_s", "aligner/")
LAYOUTS = [
    pytest.param(1, {}, id="one-rank"),
    pytest.param(2, {}, id="dp2"),
    pytest.param(2, {"tp": 2}, id="tp2"),
    pytest.param(2, {"pp": 2}, id="pp2"),
]
# Returns of order 1 at most in float32, summed up over padded rows.
RETURN_ATOL = 1e-5
# It adds 1e-8 to the variance of advantages, which is 2e-4 here: 3e-5 of their scale.
ADVANTAGE_RTOL = 1e-4


def ppo(**critic):
    """The recipe's algorithm and critic, for steps of four groups."""
    recipe = load_config("tiny_ppo_cpu", [], TrainConfig).model_dump(mode="json")
    algorithm = {**recipe["algorithm"], "micro_batch_tokens": 300, "updates_per_step": 2}
    return {"algorithm": algorithm, "critic": {**recipe["critic"], **critic}}


ALGORITHMS = [
    pytest.param({"algorithm__updates_per_step": 2}, id="grpo"),
    pytest.param(ppo(warmup_steps=1), id="ppo"),
]


def run(rank, world_size, config):  # noqa: ARG001
    return run_training(config)


def both(run_dir, **changes):
    """The same configuration for either loop."""
    return {
        loop: toy_config(run_dir / loop, trainer__loop=loop, **changes)
        for loop in ("native", "nemo_aligner")
    }


def metrics(run_dir):
    """(kind, step) -> metrics that must repeat."""
    return {
        (record.kind.value, record.step): {
            name: value
            for name, value in record.metrics.items()
            if not name.startswith(NOT_COMPARED)
        }
        for record in read_metric_log(run_dir / "metrics.jsonl")
    }


def samples(run_dir):
    return [record for path in list_samples(run_dir) for record in read_samples(path)]


class Watched:
    """The guard of a run, which sees every batch before it is learned from."""

    def __init__(self, guard):
        self.guard = guard
        self.seen = []

    def inspect(self, batches, samples):
        corrected, gap = self.guard.inspect(batches, samples)
        for batch in corrected:
            for one in batch.packed.micro_batches:
                self.seen.append((tuple(one.sample_ids), one.advantages.tolist()))
        return corrected, gap


def script(step, prompt, index):
    """Right and grounded, then ever less; the second step's first prompts earn nothing at all."""
    evidence = sorted(prompt.evidence_chunk_ids)
    if step == 2 and index < 2:
        return ScriptedResponse(text=render_response(cited_chunk_ids=[], answer="ada"))
    answer = prompt.reference_answers[0] if index == 0 else "ben rope"
    cited = evidence[: len(evidence) - index]
    return ScriptedResponse(text=render_response(cited_chunk_ids=cited, answer=answer))


def scripted_run(rank, world_size, config):  # noqa: ARG001
    """Metrics by step, what was learned from, and the weights at the end."""
    layout = ParallelLayout.from_config(config.layout, world_size)
    groups = start_process_groups(layout, seed=config.run.seed)
    run_dir = share_run_dir(config, Path(config.run.dir), groups)
    whole = assemble(config, groups, run_dir)
    parts = whole.parts
    engine = ScriptedEngine(script, whole.tokenizer)
    watched = Watched(parts.guard)
    sampler = replace(parts.collector.sampler, engine=engine)
    parts = replace(
        parts,
        collector=replace(parts.collector, sampler=sampler),
        publisher=engine,
        guard=watched,
    )
    assert LOOPS[config.trainer.loop](replace(whole, parts=parts), StopRequest())
    whole.journal.close()
    whole.close()
    weights = [gather_weights(parts.learner)]
    if parts.critic is not None:
        weights.append(gather_critic_weights(parts.critic))
    return watched.seen, [{name: one.tolist() for name, one in each.items()} for each in weights]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("world_size", "layout"), LAYOUTS)
def test_both_loops_learn_the_same(request, tmp_path, world_size, layout, algorithm):
    pool = request.getfixturevalue(f"pool{world_size}")
    changes = {f"layout__{axis}": degree for axis, degree in layout.items()}
    configs = both(
        tmp_path,
        trainer__steps=3,
        trainer__eval_every=0,
        trainer__save_every=0,
        **algorithm,
        **changes,
    )
    results = {loop: pool.run(scripted_run, config) for loop, config in configs.items()}
    ours, theirs = metrics(tmp_path / "native"), metrics(tmp_path / "nemo_aligner")
    assert theirs == ours
    has_critic = "critic" in algorithm
    for step in (1, 2, 3):
        # The critic learns alone in the first step.
        assert ours["train", step]["update/skipped"] == float(has_critic and step == 1)
        learning = "critic" if has_critic else "update"
        assert ours["train", step][f"{learning}/loss"] != 0
        assert ours["train", step][f"{learning}/grad_norm"] > 0
    for own, aligned in zip(results["native"], results["nemo_aligner"], strict=True):
        assert aligned[0] == own[0], "samples and advantages"
        assert len({value for _, advantages in own[0] for value in advantages}) > 4
        assert len(own[1]) == 1 + has_critic
        assert aligned[1] == own[1], "weights"


def two_estimates(rank, world_size, config):  # noqa: ARG001
    """Advantages and returns of a step's samples: those learned from, and NeMo-Aligner's."""
    groups = start_process_groups(
        ParallelLayout.from_config(config.layout, world_size), seed=config.run.seed
    )
    whole = assemble(config, groups, share_run_dir(config, Path(config.run.dir), groups))
    trainer = aligner_loop.build_trainer(whole, RunClock(whole, StopRequest()))
    ppo_data, _, _ = trainer.generate_rollouts()
    trainer.rm_critic.train(ppo_data)  # the head starts at 0
    trainer.generate_rollouts()
    valuation = trainer.model.take_outcome().prepared.valuation
    own, batch = estimates(valuation)
    trainer.cfg.discount_factor = config.critic.gamma
    trainer.cfg.gae_lambda = config.critic.lam
    trainer.cfg.normalize_advantages = config.algorithm.whiten_advantages
    theirs, _ = PPOTrainer.generate_ppo_data(trainer, batch)
    whole.journal.close()
    whole.close()
    mask = theirs["mask"].bool()
    return own, [theirs[name][mask].tolist() for name in ("advantages", "returns")]


def estimates(valuation):
    """What was learned from, one after the other, and the same samples as NeMo-Aligner's batch.

    Only the last token of a prompt is in it.
    """
    advantages, returns, values, rewards = [], [], [], []
    for batch, valued in zip(valuation.batches, valuation.values, strict=True):
        rows = zip(batch.packed.micro_batches, valued.values, valued.returns, strict=True)
        for row, value, earned in rows:
            for places, _ in samples_of(row):
                advantages.extend(row.advantages[places].tolist())
                returns.extend(earned[places].tolist())
                values.append(value[places])
                rewards.append(row.rewards[places].sum())
    lengths = torch.tensor([len(one) for one in values])
    padded = pad_sequence(values, batch_first=True)
    theirs = {
        "prompt_lengths": torch.ones_like(lengths),
        "response_lengths": 1 + lengths,
        "response_tokens": torch.zeros(len(values), 1 + padded.shape[1], dtype=torch.int64),
        "values": padded,
        "rewards": torch.stack(rewards),
        "logprobs": torch.zeros_like(padded),
        "is_end": torch.ones_like(lengths, dtype=torch.bool),
    }
    return [advantages, returns], theirs


def test_nemo_aligner_makes_the_same_of_the_critics_values(pool2, tmp_path):
    config = toy_config(
        tmp_path, trainer__loop="nemo_aligner", **ppo(gamma=0.97, lam=0.9, warmup_steps=0)
    )
    ranks = pool2.run(two_estimates, config)
    count = sum(len(advantages) for (advantages, _), _ in ranks)
    # It divides the squares by the number of all tokens, we by one less.
    scale = ((count - 1) / count) ** 0.5
    for (advantages, returns), (their_advantages, their_returns) in ranks:
        assert len(set(advantages)) > 20
        expected = [scale * advantage for advantage in their_advantages]
        assert advantages == pytest.approx(expected, rel=ADVANTAGE_RTOL)
        assert returns == pytest.approx(their_returns, abs=RETURN_ATOL)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {
                "algorithm__dynamic_sampling": {"enabled": True, "max_rounds": 2},
                "algorithm__whiten_advantages": True,
                "algorithm__advantage": "dr_grpo",
            },
            id="further-rounds",
        ),
        pytest.param({"algorithm__kl": {"coefficient": 0.01}}, id="reference"),
        pytest.param(
            {
                "algorithm__credit": "segment",
                "algorithm__overlong": {"buffer_tokens": 14, "mask_truncated": True},
            },
            id="segment-credit-and-length",
        ),
        pytest.param(
            {"rewards__variant": "outcome_only", "rollout__temperature": 1e-4}, id="teaches-nothing"
        ),
    ],
)
def test_a_recipe_makes_the_same_run_in_either_loop(pool1, tmp_path, changes):
    configs = both(tmp_path, trainer__steps=2, trainer__eval_every=1, **changes)
    for config in configs.values():
        assert pool1.run(run, config) == [0]
    assert metrics(tmp_path / "nemo_aligner") == metrics(tmp_path / "native")
    assert samples(tmp_path / "nemo_aligner") == samples(tmp_path / "native")
    skipped = metrics(tmp_path / "nemo_aligner")["train", 2]["update/skipped"]
    assert skipped == float("rewards__variant" in changes)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_goes_on_with_the_other_loop(pool2, tmp_path, algorithm):
    # Evaluation and checkpoints whose periods do not divide each other, which PPOTrainer refuses.
    changes = {"trainer__eval_every": 2, "trainer__save_every": 3, **algorithm}
    straight = toy_config(tmp_path / "straight", trainer__steps=4, **changes)
    assert pool2.run(run, straight) == [0, 0]
    for first, second in (("native", "nemo_aligner"), ("nemo_aligner", "native")):
        folder = tmp_path / first
        begun = toy_config(folder, trainer__steps=2, trainer__loop=first, **changes)
        assert pool2.run(run, begun) == [0, 0]
        whole = toy_config(folder, trainer__steps=4, trainer__loop=second, **changes)
        assert pool2.run(run, whole) == [0, 0]
        assert metrics(folder) == metrics(tmp_path / "straight")
        assert samples(folder) == samples(tmp_path / "straight")


def stopped_run(rank, world_size, config):  # noqa: ARG001
    """A run that is asked to stop before its first step ends."""
    groups = start_process_groups(
        ParallelLayout.from_config(config.layout, world_size), seed=config.run.seed
    )
    run_dir = share_run_dir(config, Path(config.run.dir), groups)
    whole = assemble(config, groups, run_dir)
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    is_complete = LOOPS[config.trainer.loop](whole, stop)
    whole.journal.close()
    whole.close()
    return is_complete


def test_a_stop_is_heard_after_the_step_in_progress(pool1, tmp_path):
    for loop, config in both(tmp_path, trainer__steps=3, trainer__eval_every=2).items():
        assert pool1.run(stopped_run, config) == [False]
        folder = tmp_path / loop
        assert list(metrics(folder)) == [("eval", 0), ("train", 1)]
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000001"]


def test_a_run_without_verdicts_stops_with_a_checkpoint_of_the_step_before(pool1, tmp_path):
    is_broken = [False]

    def script(request):
        return Reply(status=503) if is_broken[0] else verdict("ada" in request.answer)

    with JudgeServer(script) as server:
        settings = judge_settings(
            endpoints=[{"url": server.url}],
            retry__max_attempts=1,
            breaker__failures=1000,
            outage__action="stop",
        )
        judged = {
            "rewards__answer": "judge",
            "rewards__judge": settings,
            "trainer__eval_every": 0,
            "trainer__save_every": 1,
        }
        config = toy_config(tmp_path, trainer__loop="nemo_aligner", trainer__steps=1, **judged)
        assert pool1.run(run, config) == [0]
        is_broken[0] = True
        longer = toy_config(tmp_path, trainer__loop="nemo_aligner", trainer__steps=3, **judged)
        assert pool1.run(run, longer) == [JudgeUnavailable.EXIT_CODE]
        assert list(metrics(tmp_path)) == [("train", 1)]
        is_broken[0] = False
        assert pool1.run(run, longer) == [0]
    assert list(metrics(tmp_path)) == [("train", 1), ("train", 2), ("train", 3)]


def test_what_the_loop_says_stands_beside_the_same_numbers_of_ours(pool1, tmp_path):
    config = toy_config(tmp_path, trainer__loop="nemo_aligner", trainer__steps=2)
    assert pool1.run(run, config) == [0]
    first, second = (
        record.metrics
        for record in read_metric_log(tmp_path / "metrics.jsonl")
        if record.kind.value == "train"
    )
    # 4 prompts of 4 samples each.
    assert first["aligner/consumed_samples"] == 16
    assert second["aligner/consumed_samples"] == 32
    for metrics_of_step in (first, second):
        assert metrics_of_step["aligner/rollout_s"] >= metrics_of_step["aligner/generate_s"] > 0
        parts = metrics_of_step["aligner/rollout_s"] + metrics_of_step["aligner/train_s"]
        assert parts >= metrics_of_step["timing/step_s"]
