"""Gradient signal: numbers by hand, and the paper's closed form on a policy that fits its model."""

import itertools
import random

import pytest

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.signal import signal_tally
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.rewards.composite import REWARD_TERMS, compose_reward
from tests.unit.observability.builders import scored_batch, scored_sample

REWARDS = RewardsConfig()
# Of a mean over 4,000 groups whose values lie in [0, 1]: four standard errors of at most 0.5.
SAMPLED_ATOL = 4 * 0.5 / 4000**0.5


def sample(cited, answer, *, evidence=(1, 2), prompt_id="p0", rewards=REWARDS, **more):
    """A sample that earns what the recipe says."""
    reward = compose_reward(rewards, answer=answer, cited=cited, evidence=set(evidence))
    return scored_sample(
        cited=tuple(cited),
        answer=answer,
        evidence=evidence,
        prompt_id=prompt_id,
        reward=reward.total,
        f_beta=reward.match.f_beta,
        precision=reward.match.precision,
        recall=reward.match.recall,
        **more,
    )


def means(*scored, group_size=2, rewards=REWARDS, advantage="grpo"):
    batch = scored_batch(*scored, group_size=group_size)
    return signal_tally(batch, rewards, advantage=advantage).means()


def test_flat_groups_are_counted_for_each_reward():
    found = means(
        *(sample([1], 0.0), sample([1, 2], 0.0)),  # wrong answers, unequal citations
        *(sample([], 0.0), sample([], 1.0)),  # unequal answers, no citations
        *(sample([], 0.0), sample([3], 0.0)),  # nothing at all
        *(sample([1], 1.0), sample([1], 0.0, is_valid=False)),  # nobody to be compared with
    )
    assert found[names.SIGNAL_FLAT_ANSWER_FRAC] == 3 / 4
    assert found[names.SIGNAL_FLAT_CONTEXT_FRAC] == 3 / 4
    assert found[names.SIGNAL_FLAT_REWARD_FRAC] == 2 / 4


def test_all_other_evidence_is_cited_for_the_chunk_that_alone_is_missing():
    three = {"evidence": (0, 1, 2)}
    found = means(
        sample([0, 1, 2], 1.0, **three),  # for each of three
        sample([0, 1, 3], 0.0, **three),  # for chunk 2 only
        sample([0], 1.0, prompt_id="p1", **three),  # for none
        sample([], 0.0, prompt_id="p1", **three),
    )
    assert found[names.SIGNAL_OTHERS_CITED_FRAC] == pytest.approx((1 + 1 / 3) / 4)
    assert found[names.others_cited_by_evidence(3)] == pytest.approx((1 + 1 / 3) / 4)
    # Rates 1, 1, 1/2 -> products 1/2, 1/2, 1; rates 1/2, 0, 0 -> 0, 0, 0.
    assert found[names.SIGNAL_OTHERS_CITED_INDEPENDENT_FRAC] == pytest.approx((2 / 3) / 2)
    assert found[names.SIGNAL_RIGHT_GIVEN_ALL_CITED] == 1
    assert found[names.SIGNAL_RIGHT_GIVEN_ONE_MISSING] == 0
    assert found[names.SIGNAL_RIGHT_GIVEN_MORE_MISSING] == 0.5


def test_evidence_gradient_is_the_covariance_with_being_cited():
    # Chunk 1 is cited by both; chunk 2 by the second, which earns 1 + F 1 against 0.1 * 5/9.
    # F of {1} against {1, 2}: P = 1, R = 1/2 -> 2.5 / 4.5.
    found = means(sample([1], 0.0), sample([1, 2], 1.0))
    f_beta = 2.5 / 4.5
    # Two samples: covariance = product of the differences / 2; mean over the two chunks.
    assert found[names.evidence_gradient("answer")] == pytest.approx(1 / 2 / 2)
    assert found[names.evidence_gradient("context")] == pytest.approx(0.1 * (1 - f_beta) / 2 / 2)
    assert found[names.evidence_gradient("joint")] == pytest.approx(0.9 / 2 / 2)
    assert found[names.evidence_gradient("reward")] == pytest.approx((2 - 0.1 * f_beta) / 2 / 2)


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo"])
def test_variance_shares_add_up_to_one(advantage):
    draw = random.Random(3)
    scored = [
        sample(draw.sample(range(4), draw.randrange(4)), float(draw.random() < 0.5))
        for _ in range(24)
    ]
    found = means(*scored, group_size=4, advantage=advantage)
    shares = [found[names.advantage_variance_frac(term)] for term in REWARD_TERMS]
    assert sum(shares) == pytest.approx(1)


def test_variance_is_not_told_where_tokens_of_a_response_have_unequal_advantages():
    found = means(sample([], 0.0), sample([1], 1.0), advantage=None)
    assert names.SIGNAL_FLAT_REWARD_FRAC in found
    assert not {names.advantage_variance_frac(term) for term in REWARD_TERMS} & found.keys()


def test_an_outcome_only_run_owes_its_variance_to_answers():
    rewards = RewardsConfig(variant="outcome_only")
    scored = [sample([1], 0.0, rewards=rewards), sample([1, 2], 1.0, rewards=rewards)]
    found = means(*scored, rewards=rewards)
    assert found[names.advantage_variance_frac("answer")] == 1
    assert found[names.advantage_variance_frac("context")] == 0
    found = means(*[sample([c], 0.0, rewards=rewards) for c in (1, 3)], rewards=rewards)
    assert found[names.SIGNAL_FLAT_REWARD_FRAC] == 1


def test_groups_count_alike_where_advantages_are_scaled():
    mixed = (sample([], 0.0), sample([], 1.0))  # variance 1/2, all of it the answer's
    cited = (sample([3], 0.0), sample([1], 0.0))  # far less, all of it the context's
    found = means(*mixed, *cited)
    assert found[names.advantage_variance_frac("answer")] == pytest.approx(0.5)
    f_beta = 2.5 / 4.5
    smaller = (0.1 * f_beta) ** 2
    found = means(*mixed, *cited, advantage="dr_grpo")
    assert found[names.advantage_variance_frac("context")] == pytest.approx(smaller / (1 + smaller))


def test_the_papers_policy_shows_the_papers_gradient():
    """Coins of their own and an all-or-nothing answer: d E[answer] / d logit = var * p**(g - 1)."""
    draw, rate, evidence = random.Random(5), 0.4, (0, 1, 2)
    groups = [
        sample(
            cited := [chunk for chunk in range(4) if draw.random() < rate],
            float(set(evidence) <= set(cited)),
            evidence=evidence,
        )
        for _ in range(4000 * 4)
    ]
    found = means(*groups, group_size=4)
    others = rate ** (len(evidence) - 1)
    assert found[names.SIGNAL_OTHERS_CITED_FRAC] == pytest.approx(others, abs=SAMPLED_ATOL)
    assert found[names.SIGNAL_OTHERS_CITED_INDEPENDENT_FRAC] == pytest.approx(
        others, abs=SAMPLED_ATOL
    )
    closed_form = rate * (1 - rate) * others
    assert found[names.evidence_gradient("answer")] == pytest.approx(closed_form, abs=SAMPLED_ATOL)


def test_ranks_add_up_even_where_one_has_no_samples():
    groups = [(sample([1], 0.0), sample([1, 2], 1.0)), (sample([], 0.0), sample([2], 0.0))]
    whole = scored_batch(*itertools.chain(*groups))
    shares = [*(scored_batch(*group) for group in groups), scored_batch()]
    tallies = [signal_tally(share, REWARDS, advantage="grpo") for share in shares]
    vectors = [tally.to_vector() for tally in tallies]
    summed = Tally.from_vector(tallies[0].names, [sum(v) for v in zip(*vectors, strict=True)])
    expected = signal_tally(whole, REWARDS, advantage="grpo")
    assert summed.to_vector() == pytest.approx(expected.to_vector())
