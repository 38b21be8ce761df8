"""From values to the advantages of a step: sample by sample, charged, whitened over all ranks."""

from functools import partial

import pytest
import torch

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.algorithms.packing import Peers, pack
from megatron_longrlvr.algorithms.valuation import evaluate_tokens, whiten_tokens
from megatron_longrlvr.config.critic import CriticConfig
from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.config.training import KlConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import ScoredBatch, TrainBatch
from tests.unit.algorithms.builders import algorithm, prompt, scored_sample

FLOAT32_RTOL = 1e-6
NO_KL = KlConfig()


def critic(**settings):
    return CriticConfig(optimizer=OptimizerConfig(lr=1.0), **settings)


def train_batch(*, shared=True, reference=None, is_valid=True):
    """A prompt of 3 tokens; sample 0 writes 2 tokens and earns 1, sample 1 writes 1 for nothing."""
    of = prompt("p")
    scored = [
        scored_sample(of, 0, num_tokens=2, reward=1.0),
        scored_sample(of, 1, num_tokens=1, reward=0.0, is_valid=is_valid),
    ]
    config = algorithm(advantage="gae", drop_uninformative_groups=False, shared_prompt=shared)
    assigned = assign_advantages(ScoredBatch(step=1, group_size=2, scored=scored), config)
    (packed,) = pack(assigned, config=config, max_response_tokens=4)
    rows = [row.behavior_logprobs for row in packed.micro_batches]
    return TrainBatch(
        packed=packed,
        proximal_logprobs=rows,
        reference_logprobs=None if reference is None else [row + reference for row in rows],
    )


def values_of(batch, told):
    """Values of the response tokens, in the order of the rows."""
    told, rows = iter(told), []
    for row in batch.packed.micro_batches:
        values = torch.zeros(len(row.token_ids))
        values[row.is_response] = torch.tensor([next(told) for _ in range(row.is_response.sum())])
        rows.append(values)
    return rows


def responses(batch):
    return [
        value
        for row in batch.packed.micro_batches
        for value in row.advantages[row.is_response].tolist()
    ]


@pytest.mark.parametrize("shared", [True, False], ids=["shared-prompt", "apart"])
def test_each_sample_is_judged_by_its_own_rewards_and_values(shared):
    # Sample 0: deltas .5 + 0 - .25 = .25 and 1 - .5; A_0 = .25 + .5 * .5. Sample 1: 0 - .75.
    batch = train_batch(shared=shared)
    assert all(value != value for value in responses(batch)), "unknown before the critic spoke"
    found = evaluate_tokens(
        [batch], [values_of(batch, [0.25, 0.5, 0.75])], critic=critic(lam=0.5), kl=NO_KL
    )
    assert responses(found.batches[0]) == pytest.approx([0.5, 0.5, -0.75])
    (valued,) = found.values
    for row, advantages, values, returns in zip(
        valued.packed.micro_batches,
        [row.advantages for row in found.batches[0].packed.micro_batches],
        valued.values,
        valued.returns,
        strict=True,
    ):
        assert torch.equal(returns, advantages + values)
        assert not returns[~row.is_response].any()


def test_charge_for_divergence_is_a_reward_that_earlier_tokens_answer_for():
    # k1 against a reference that is .5 nats below: every token pays 2 * .5.
    batch = train_batch(reference=-0.5)
    kl = KlConfig(coefficient=2.0, estimator="k1", place="reward")
    found = evaluate_tokens([batch], [values_of(batch, [0.0] * 3)], critic=critic(), kl=kl)
    assert responses(found.batches[0]) == pytest.approx([1.0 - 2.0, 1.0 - 1.0, -1.0])
    in_loss = KlConfig(coefficient=2.0, estimator="k3", place="loss")
    found = evaluate_tokens([batch], [values_of(batch, [0.0] * 3)], critic=critic(), kl=in_loss)
    assert responses(found.batches[0]) == pytest.approx([1.0, 1.0, 0.0])


def test_explained_variance_by_hand_over_two_ranks():
    # lambda 1: returns are 1, 1, 0 on each rank. Values 1, 0, 0 and 1, 1, 1: errors 0 1 0, 0 0 -1.
    # Var(returns) = 2/3 - 4/9 = 2/9; Var(errors) = 2/6 - 0 = 1/3: 1 - (1/3) / (2/9) = -1/2.
    batch = train_batch()
    told = [values_of(batch, row) for row in ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])]
    sent = []

    def evaluate(gather, values):
        peers = Peers(rank=0, size=2, gather=gather)
        return evaluate_tokens([batch], [values], critic=critic(), kl=NO_KL, peers=peers)

    for values in told:
        evaluate(lambda own: (sent.append(own), [own])[1], values)
    metrics = evaluate(lambda _: sent, told[0]).metrics
    assert metrics == pytest.approx(
        {
            names.CRITIC_RETURN_MEAN: 2 / 3,
            names.CRITIC_VALUE_MEAN: 2 / 3,
            names.CRITIC_EXPLAINED_VARIANCE: -0.5,
        }
    )


def test_returns_without_spread_leave_the_explained_variance_out():
    batch = train_batch(is_valid=False)  # a single sample, which earned 1
    found = evaluate_tokens([batch], [values_of(batch, [0.5, 0.5])], critic=critic(), kl=NO_KL)
    assert names.CRITIC_EXPLAINED_VARIANCE not in found.metrics
    assert evaluate_tokens([], [], critic=critic(), kl=NO_KL).metrics == {}


def test_whitening_counts_response_tokens_of_all_ranks():
    # One rank has advantages 1 1 0, the other 4 4 0: mean 10/6, squares 34 - 100/6, over 5.
    batch = train_batch()
    (own,) = evaluate_tokens(
        [batch], [values_of(batch, [0.0] * 3)], critic=critic(), kl=NO_KL
    ).batches
    mean, std = 10 / 6, ((34 - 100 / 6) / 5) ** 0.5
    answers = iter([[3.0, 8.0], [(4 - mean) ** 2 * 2 + mean**2]])
    peers = Peers(rank=0, size=2, gather=partial(lambda own: [own, next(answers)]))
    (whitened,) = whiten_tokens([own], peers)
    expected = [(1 - mean) / std, (1 - mean) / std, -mean / std]
    assert responses(whitened) == pytest.approx(expected, rel=FLOAT32_RTOL)
    row = whitened.packed.micro_batches[0]
    assert not row.advantages[~row.is_response].any()


def test_whitening_a_single_token_changes_nothing():
    assert whiten_tokens([]) == []
