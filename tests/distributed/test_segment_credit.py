"""Segment credit on any layout: one loss and one gradient for tokens with unequal advantages.

The samples have text, in which each token is a letter: whether a token belongs to citation or
answer is decided where the sample was written, and travels with it to the rank that learns from it.
"""

from dataclasses import replace

import pytest

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.algorithms.credit import SegmentCredit
from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.parallel.groups import close_process_groups
from megatron_longrlvr.stages import ScoredBatch
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from tests.support.gradients import assert_same_pass
from tests.support.learners import TEMPERATURE, gather_gradients, start_learner, start_policy
from tests.support.sample_groups import random_groups
from tests.support.tiny_models import save_tiny_model

PIECES = ("<useful_chunks>", "</useful_chunks>", "<answer>", "</answer>", "")
# Answer reward and F-beta of each sample; the last one has no blocks.
EARNED = ((1.0, 0.8), (0.0, 0.3), (1.0, 0.5), (0.0, 0.0))
SHAPES = ((9, (5, 4, 7, 2)), (14, (4, 6, 5, 1)), (5, (6, 5, 4, 3)))
LAYOUTS = [
    pytest.param({}, id="dp2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
    pytest.param({"cp": 2}, id="cp2"),
]


def texts(length):
    """Text of each token: blocks as early as can be, and words behind them."""
    return [*PIECES[:4], *["x"] * (length - 4)] if length >= 4 else ["x"] * length


def scored_groups():
    """Groups of random tokens that are written and rewarded alike."""
    for group in random_groups(seed=3, shapes=SHAPES):
        scored = [
            replace(
                one,
                sample=replace(one.sample, text="".join(texts(len(one.sample.token_ids)))),
                reward=answer + 0.1 * f + 0.9 * answer * f,
                reward_parts={"answer": answer, "context_f_beta": f},
            )
            for one, (answer, f) in zip(group.scored, EARNED, strict=True)
        ]
        yield ScoredBatch(step=1, group_size=len(EARNED), scored=scored)


def decode(token_ids):
    # By the number of tokens alone: what has blocks begins with them.
    return "".join(texts(max(4, len(token_ids)))[: len(token_ids)])


def one_pass(rank, world_size, folder, layout, shared):  # noqa: ARG001
    """Loss, gradients, and the advantages of this rank's tokens."""
    algorithm = AlgorithmConfig(micro_batch_tokens=40, credit="segment", shared_prompt=shared)
    policy = start_policy(folder, layout, world_size)
    learner = start_learner(policy, distributed=False)
    groups = policy.groups
    mine = list(scored_groups())[groups.dp_rank :: groups.layout.dp]
    batch = ScoredBatch(
        step=1, group_size=len(EARNED), scored=[one for group in mine for one in group.scored]
    )
    credit = SegmentCredit(rewards=RewardsConfig(), decode=decode)
    assigned = assign_advantages(batch, algorithm, credit)
    (packed,) = pack(
        assigned, config=algorithm, max_response_tokens=8, peers=data_parallel_peers(groups)
    )
    results = run_micro_batches(
        learner.wrapped,
        policy.localize(packed.micro_batches),
        policy_gradient(learner.add_logprobs(packed, algorithm), algorithm),
        settings=policy.settings(TEMPERATURE),
        forward_only=False,
    )
    loss = learner._global_sums(results, ("loss",))["loss"]
    gradients = gather_gradients(learner)
    close_process_groups()
    return (loss, gradients), assigned.advantages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def alone(pool1, folder):
    return pool1.run(one_pass, folder, {}, False)[0]


def test_tokens_of_a_response_have_unequal_advantages(alone):
    advantages = alone[1]
    assert [len(set(tokens)) for tokens in advantages] == [2, 2, 2, 1] * len(SHAPES)
    first = advantages[0]
    assert first[:2] == [first[0]] * 2
    assert first[2:] == [first[2]] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_loss_and_gradients_of_one_rank(pool2, folder, alone, layout):
    for result, _ in pool2.run(one_pass, folder, layout, True):
        assert_same_pass(result, alone[0])
