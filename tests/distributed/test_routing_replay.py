"""Tokens go where the engine sent them, whatever the learner's router would choose.

Engines and learners differ by rounding. Where two experts are a rounding apart, that decides which
of them a token goes to, and its log-probability changes by far more than a rounding. Here experts
come in pairs whose router rows are nearly the same, and the learner's router is moved by less than
a thousandth after sampling: a stand-in for an engine that rounds otherwise. With the choices of the
engine replayed, the gap between its log-probabilities and the learner's is of the size of that
move; without, most tokens are far off.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.routing import routers_by_layer
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.megatron_engine import MegatronEngine
from megatron_longrlvr.stages import AdvantageBatch, PromptBatch, ScoredSample
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from tests.distributed.test_megatron_engine import STOP_ID, NumberTokenizer, prompts
from tests.support.gradients import assert_same_pass
from tests.support.learners import TEMPERATURE, gather_gradients, start_learner, start_policy
from tests.support.tiny_models import save_tiny_model

GROUP_SIZE = 3
PARAMS = SamplingParams(
    max_response_tokens=9, temperature=TEMPERATURE, seed=5, returns_experts=True
)
ALGORITHM = AlgorithmConfig(micro_batch_tokens=60)
SHAKE = 0.05
MOVE = 1e-4  # of the learner's router weights, which are about 0.15
# Weights of the experts move by MOVE times the square root of 32 hidden dimensions, over 3 layers.
REPLAYED_ATOL = 5e-3
ROUNDING_ATOL = 1e-4  # a key/value cache against one causal pass
# What a wrong expert in some layer does to a log-probability, at least once in a response.
FREE_GAP = 0.5
LAYOUTS_OF_TWO = [
    pytest.param({"ep": 2}, {}, id="ep2"),
    pytest.param(
        {"tp": 2, "sequence_parallel": True}, {"recompute": "full"}, id="tp2-sp-recompute"
    ),
    pytest.param({"pp": 2}, {"recompute": "full"}, id="pp2-recompute"),
    pytest.param({"cp": 2, "ep": 2}, {}, id="cp2-ep2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One of four experts is chosen for a token; experts 0 and 1, 2 and 3 are nearly equal."""
    path = tmp_path_factory.mktemp("models") / "paired"
    model = save_tiny_model(path, "qwen3_moe", num_experts_per_tok=1)
    with torch.no_grad():
        for layer in model.model.layers:
            if hasattr(layer.mlp, "gate"):
                gate = layer.mlp.gate.weight
                gate[1::2] = gate[::2] + 1e-6 * torch.randn_like(gate[::2])
    model.save_pretrained(path)
    return path


def sample_and_learn(rank, world_size, folder, layout, model, is_replayed, move):  # noqa: ARG001
    """Gaps between engine and learner by sample, with what moved the router; gradients; reports."""
    policy = start_policy(folder, layout, world_size, **model)
    policy = replace(policy, replays_routing=is_replayed)
    learner = start_learner(policy, distributed=False)
    samples = generated(policy)
    generator = torch.Generator().manual_seed(3)
    routers = routers_by_layer(policy.chunks)
    with torch.no_grad():
        for layer in range(policy.spec.num_layers):  # the same on every rank
            noise = move * torch.randn(4, policy.spec.hidden_size, generator=generator)
            if layer in routers:
                routers[layer].weight += noise
    peers = data_parallel_peers(policy.groups)
    (packed,) = pack(as_batch(samples), config=ALGORITHM, max_response_tokens=9, peers=peers)
    batch = learner.add_logprobs(packed, ALGORITHM)
    gaps = [
        (learned - micro_batch.behavior_logprobs)[micro_batch.is_response].tolist()
        for micro_batch, learned in zip(packed.micro_batches, batch.proximal_logprobs, strict=True)
    ]
    gradients = learner.accumulate_gradients(batch, ALGORITHM)
    by_name = gather_gradients(learner)
    return (
        [gap for row in gaps for gap in row],
        (gradients.sums["loss"], by_name),
        learner.apply_gradients(gradients).metrics,
        [(one.prompt.prompt_id, one.sample_index, one.experts) for one in samples],
    )


def generated(policy):
    engine = MegatronEngine(
        policy, NumberTokenizer(), max_concurrent_samples=6, stop_ids=frozenset({STOP_ID})
    )
    share = prompts()[policy.groups.dp_rank :: policy.groups.layout.dp]
    return engine.generate(
        PromptBatch(step=3, prompts=share, group_size=GROUP_SIZE), PARAMS
    ).samples


def as_batch(samples):
    return AdvantageBatch(
        step=3,
        scored=[ScoredSample.without_reward(sample) for sample in samples],
        advantages=[[float(1 - sample.sample_index)] * len(sample.token_ids) for sample in samples],
        num_groups=len(samples) // GROUP_SIZE,
        num_dropped_groups=0,
    )


def test_replay_closes_the_gap_of_a_moved_router(pool1, folder):
    ((gaps, _, metrics, _),) = pool1.run(sample_and_learn, folder, {}, {}, True, MOVE)
    assert max(map(abs, gaps)) < REPLAYED_ATOL
    # Of two nearly equal experts the moved router takes the other one about half of the time.
    assert 0.2 < metrics["router_replay_changed_frac"] < 0.8
    ((free, _, metrics, _),) = pool1.run(sample_and_learn, folder, {}, {}, False, MOVE)
    assert max(map(abs, free)) > FREE_GAP
    assert "router_replay_changed_frac" not in metrics


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """Its experts are far apart: all layouts choose the same while they sample."""
    path = tmp_path_factory.mktemp("models") / "qwen3_moe"
    save_tiny_model(path, "qwen3_moe")
    return path


@pytest.fixture(scope="module")
def replayed(pool1, mixture):
    return pool1.run(sample_and_learn, mixture, {}, {}, True, SHAKE)[0]


def test_a_router_that_did_not_move_chooses_the_same(pool1, mixture):
    ((gaps, _, metrics, samples),) = pool1.run(sample_and_learn, mixture, {}, {}, True, 0.0)
    assert metrics["router_replay_changed_frac"] == 0
    assert max(map(abs, gaps)) < ROUNDING_ATOL
    for prompt, (_, _, experts) in zip(prompts(), samples[::GROUP_SIZE], strict=True):
        assert experts.prompt.shape == (len(prompt.token_ids), 4, 2)


@pytest.mark.parametrize(("layout", "model"), LAYOUTS_OF_TWO)
def test_layouts_replay_what_they_recorded(pool2, mixture, replayed, layout, model):
    results = pool2.run(sample_and_learn, mixture, layout, model, True, SHAKE)
    _, expected_pass, expected_metrics, expected_samples = replayed
    assert expected_metrics["router_replay_changed_frac"] > 0.05
    for _, result, metrics, _ in results:
        assert_same_pass(result, expected_pass)
        assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    choices = {place[:2]: place[2] for *_, samples in results for place in samples}
    assert len(choices) == len(expected_samples)
    for *place, experts in expected_samples:
        assert (choices[tuple(place)].prompt == experts.prompt).all()
        assert (choices[tuple(place)].response == experts.response).all()


def test_gradients_of_a_moved_router_depend_on_replay(pool1, mixture, replayed):
    ((_, free, _, _),) = pool1.run(sample_and_learn, mixture, {}, {}, False, SHAKE)
    with pytest.raises(AssertionError):
        assert_same_pass(free, replayed[1])
