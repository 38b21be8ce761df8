"""The gradient by term of the reward: terms add up to the whole, on any layout, and measuring them
leaves nothing behind.
"""

from dataclasses import replace

import pytest
import torch

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.algorithms.reward_terms import split_advantages
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.gradient_norm import gradient_norm
from megatron_longrlvr.parallel.groups import close_process_groups
from megatron_longrlvr.rewards.composite import split_reward
from megatron_longrlvr.stages import ScoredBatch
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from megatron_longrlvr.trainer.gradient_parts import GradientParts
from tests.support.gradients import FP32_RTOL
from tests.support.learners import gather_gradients, gather_weights, start_learner, start_policy
from tests.support.sample_groups import random_groups
from tests.support.tiny_models import save_tiny_model

REWARDS = RewardsConfig()
ALGORITHM = AlgorithmConfig(micro_batch_tokens=200, entropy_coefficient=0.01)
# Answer reward, F-beta and charge for length of each sample of a group.
EARNED = ((0.0, 0.3, 0.0), (1.0, 0.8, 0.4), (0.0, 0.0, 0.1), (1.0, 0.5, 0.0))
GROUP = len(EARNED)
SHAPES = ((9, (3, 4, 2, 5)), (14, (6, 1, 2, 2)))

LAYOUTS = [
    pytest.param({}, id="dp2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
]


def scored_groups():
    """Groups of random tokens with rewards that hold all terms."""
    for group in random_groups(seed=3, shapes=SHAPES):
        yield ScoredBatch(
            step=1,
            group_size=GROUP,
            scored=[
                replace(
                    scored,
                    reward=sum(split_reward(REWARDS, answer=answer, f_beta=f).values()) - charge,
                    reward_parts={"answer": answer, "context_f_beta": f},
                    overlong_charge=charge,
                )
                for scored, (answer, f, charge) in zip(group.scored, EARNED, strict=True)
            ],
        )


def measure(rank, world_size, folder, layout):  # noqa: ARG001
    """Norms by metric name; gradients of the whole and of the sum of terms; weights kept."""
    policy = start_policy(folder, layout, world_size)
    learner = start_learner(policy, distributed=True)
    peers = data_parallel_peers(policy.groups)
    mine = list(scored_groups())[policy.groups.dp_rank :: policy.groups.layout.dp]
    everything = ScoredBatch(
        step=1, group_size=GROUP, scored=[one for batch in mine for one in batch.scored]
    )
    advantages = assign_advantages(everything, ALGORITHM)

    def packed(batch):
        return pack(batch, config=ALGORITHM, max_response_tokens=8, peers=peers)

    batch = learner.add_logprobs(packed(advantages)[0], ALGORITHM)
    before = gather_weights(learner)
    parts = GradientParts(every=1, rewards=REWARDS, algorithm=ALGORITHM, peers=peers)
    norms = parts.measure(learner, advantages, batch, pack=packed)
    is_kept = all(torch.equal(before[name], kept) for name, kept in gather_weights(learner).items())
    summed = {}
    for term, shares in split_advantages(advantages, REWARDS).items():
        part = replace(batch, packed=packed(replace(advantages, advantages=shares))[0])
        assert gradient_norm(learner, part, ALGORITHM) == pytest.approx(
            norms[f"signal/grad_norm_{term}"], rel=FP32_RTOL
        )
        # The distributed optimizer's ranks hold the sums of their own shards only.
        for name, gradient in gather_gradients(learner).items():
            summed[name] = summed.get(name, 0) + gradient
    gradient_norm(learner, batch, ALGORITHM)
    whole = gather_gradients(learner)
    close_process_groups()
    return norms, is_kept, whole, summed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def alone(pool1, folder):
    return pool1.run(measure, folder, {})[0]


def test_gradients_of_the_terms_add_up_to_the_gradient(alone):
    norms, is_kept, whole, summed = alone
    assert is_kept
    assert all(norm > 0 for norm in norms.values())
    flat = torch.cat([gradient.flatten() for gradient in whole.values()])
    total = torch.cat([summed[name].flatten() for name in whole])
    assert (flat - total).norm() <= 10 * FP32_RTOL * flat.norm()
    assert float(flat.norm()) == pytest.approx(norms["signal/grad_norm_reward"], rel=FP32_RTOL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_norm(pool2, folder, alone, layout):
    for norms, is_kept, _, _ in pool2.run(measure, folder, layout):
        assert is_kept
        assert norms == pytest.approx(alone[0], rel=10 * FP32_RTOL)


def test_other_steps_measure_nothing(alone):
    assert alone[0].keys() == {
        f"signal/grad_norm_{term}" for term in ("reward", "answer", "context", "joint", "overlong")
    }
    parts = GradientParts(every=2, rewards=REWARDS, algorithm=ALGORITHM, peers=None)
    batch = next(scored_groups())
    packed = pack(assign_advantages(batch, ALGORITHM), config=ALGORITHM, max_response_tokens=8)[0]
    train_batch = type("Batch", (), {"packed": packed})
    assert parts.measure(None, None, train_batch, pack=None) == {}
