"""Step metrics: every number by hand, and independence of how samples lie on ranks."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.data.response_format import ParseOutcome
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.step_metrics import (
    advantage_tally,
    eval_metrics,
    eval_tally,
    train_metrics,
    train_tally,
    update_metrics,
)
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.stages import AdvantageBatch, FinishReason
from tests.unit.observability.builders import scored_batch, scored_sample

# Reordering a sum of at most 24 numbers of size 2 moves it by a few 1e-15.
SUM_RTOL = 1e-12
# The root of a difference that cancels turns 1e-15 into 3e-8.
STD_ATOL = 1e-6

BATCH = scored_batch(
    # Group with spread: right and grounded, wrong and grounded.
    scored_sample(
        reward=2.0, answer=1.0, f_beta=1.0, precision=1.0, recall=1.0, num_tokens=4, cited=(1, 2)
    ),
    scored_sample(reward=0.1, f_beta=1.0, precision=1.0, recall=1.0, num_tokens=6, cited=(1, 2, 2)),
    # Group of equal rewards: right but ungrounded, twice; one of them cut off.
    scored_sample(reward=1.0, answer=1.0, f_beta=0.5, precision=0.5, recall=0.5, num_tokens=8),
    scored_sample(
        reward=1.0,
        answer=1.0,
        num_tokens=10,
        outcome="no_citation",
        finish_reason=FinishReason.LENGTH,
    ),
    # Group whose spread comes from a sample without a known reward.
    scored_sample(reward=0.0, num_tokens=2),
    scored_sample(reward=7.0, num_tokens=0, is_valid=False, finish_reason=FinishReason.ABORTED),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(names.ROLLOUT_PROMPTS, 3, id="prompts"),
        pytest.param(names.ROLLOUT_SAMPLES, 6, id="samples"),
        pytest.param(names.ROLLOUT_RESPONSE_TOKENS, 30, id="tokens"),
        pytest.param(names.ROLLOUT_RESPONSE_TOKENS_MEAN, 5, id="tokens-mean"),
        pytest.param(names.ROLLOUT_TRUNCATED_FRAC, 1 / 6, id="truncated"),
        pytest.param(names.ROLLOUT_CITED_CHUNKS_MEAN, 4 / 6, id="repeats-count-once"),
        pytest.param(names.REWARD_INVALID_SAMPLES, 1, id="invalid"),
        pytest.param(names.REWARD_MEAN, 4.1 / 5, id="reward"),
        # Squares 4, .01, 1, 1, 0: 6.01 / 5 - .82**2 = .5296.
        pytest.param(names.REWARD_STD, math.sqrt(0.5296), id="reward-std"),
        pytest.param(names.REWARD_ANSWER_MEAN, 3 / 5, id="answer"),
        pytest.param(names.REWARD_CONTEXT_F_BETA_MEAN, 2.5 / 5, id="f-beta"),
        pytest.param(names.REWARD_CONTEXT_PRECISION_MEAN, 2.5 / 5, id="precision"),
        pytest.param(names.REWARD_CONTEXT_RECALL_MEAN, 2.5 / 5, id="recall"),
        pytest.param(names.REWARD_FORMAT_OK_FRAC, 4 / 5, id="format"),
        pytest.param(names.REWARD_GROUPS_INFORMATIVE_FRAC, 1 / 3, id="informative"),
        pytest.param(names.REWARD_RIGHT_GROUNDED_FRAC, 1 / 5, id="right-grounded"),
        pytest.param(names.REWARD_RIGHT_UNGROUNDED_FRAC, 2 / 5, id="right-ungrounded"),
        pytest.param(names.REWARD_WRONG_GROUNDED_FRAC, 1 / 5, id="wrong-grounded"),
        pytest.param(names.REWARD_WRONG_UNGROUNDED_FRAC, 1 / 5, id="wrong-ungrounded"),
        pytest.param(names.REWARD_GROUNDED_GIVEN_RIGHT, 1 / 3, id="grounded-given-right"),
        pytest.param(names.parse_outcome_frac("ok"), 5 / 6, id="parse-ok"),
        pytest.param(names.parse_outcome_frac("no_citation"), 1 / 6, id="parse-no-citation"),
        pytest.param(names.parse_outcome_frac("no_answer"), 0, id="parse-no-answer"),
    ],
)
def test_training_metric_by_hand(name, expected):
    assert train_metrics(train_tally(BATCH))[name] == pytest.approx(expected, rel=SUM_RTOL)


def test_a_group_with_fewer_than_two_valid_samples_is_counted():
    metrics = train_metrics(train_tally(BATCH))
    assert metrics[names.REWARD_GROUPS_TOO_FEW_VALID] == 1


def test_every_parse_outcome_has_a_share_and_they_sum_to_one():
    metrics = train_metrics(train_tally(BATCH))
    shares = [metrics[names.parse_outcome_frac(outcome.value)] for outcome in ParseOutcome]
    assert math.fsum(shares) == pytest.approx(1.0, rel=SUM_RTOL)


def test_helper_sums_are_not_reported():
    assert not [name for name in train_metrics(train_tally(BATCH)) if "square" in name]
    assert not [name for name in eval_metrics(eval_tally(BATCH)) if "by_prompt" in name]


def test_groups_dropped_over_unequal_ranks():
    # 1 of 4 and 1 of 1 groups: 2 of 5.
    ranks = [
        AdvantageBatch(step=1, scored=[], advantages=[], num_groups=4, num_dropped_groups=1),
        AdvantageBatch(step=1, scored=[], advantages=[], num_groups=1, num_dropped_groups=1),
    ]
    metrics = train_metrics(
        train_tally(BATCH) + advantage_tally(ranks[0]) + advantage_tally(ranks[1])
    )
    assert metrics[names.REWARD_GROUPS_DROPPED_FRAC] == pytest.approx(0.4, rel=SUM_RTOL)


def test_grounded_given_right_is_unmeasured_without_a_right_answer():
    metrics = train_metrics(train_tally(scored_batch(scored_sample(), scored_sample())))
    assert math.isnan(metrics[names.REWARD_GROUNDED_GIVEN_RIGHT])


def test_three_of_four_evidence_chunks_are_not_grounded_and_four_are():
    # F2 at precision 1 and recall 3/4: 5 * .75 / (4 + .75) = .789.
    missed = scored_sample(f_beta=5 * 0.75 / 4.75)
    # All four and five others: precision 4/9, F2 = 5 * (4/9) / (16/9 + 1) = .8.
    loose = scored_sample(f_beta=5 * (4 / 9) / (16 / 9 + 1))
    metrics = train_metrics(train_tally(scored_batch(missed, loose)))
    assert metrics[names.REWARD_WRONG_GROUNDED_FRAC] == 0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(names.EVAL_SAMPLES, 6, id="samples"),
        pytest.param(names.EVAL_PROMPTS, 3, id="prompts"),
        pytest.param(names.EVAL_INVALID_SAMPLES, 1, id="invalid"),
        pytest.param(names.EVAL_REWARD_MEAN, 4.1 / 5, id="reward"),
        pytest.param(names.EVAL_ANSWER_MEAN, 3 / 5, id="answer"),
        pytest.param(names.EVAL_CONTEXT_F_BETA_MEAN, 2.5 / 5, id="f-beta"),
        pytest.param(names.EVAL_FORMAT_OK_FRAC, 4 / 5, id="format"),
        pytest.param(names.EVAL_RESPONSE_TOKENS_MEAN, 5, id="tokens"),
        pytest.param(names.EVAL_TRUNCATED_FRAC, 1 / 6, id="truncated"),
        # Answers by prompt .5, 1, 0: unbiased variance .25, over 3 prompts, root.
        pytest.param(names.EVAL_ANSWER_STDERR, math.sqrt(0.25 / 3), id="answer-stderr"),
        # F-beta by prompt 1, .25, 0: mean 5/12, squared deviations 49/144, 4/144, 25/144.
        pytest.param(
            names.EVAL_CONTEXT_F_BETA_STDERR, math.sqrt(78 / 144 / 2 / 3), id="f-beta-stderr"
        ),
    ],
)
def test_heldout_metric_by_hand(name, expected):
    assert eval_metrics(eval_tally(BATCH))[name] == pytest.approx(expected, rel=SUM_RTOL)


def test_standard_error_of_one_prompt_is_unmeasured():
    metrics = eval_metrics(eval_tally(scored_batch(scored_sample(answer=1.0), scored_sample())))
    assert math.isnan(metrics[names.EVAL_ANSWER_STDERR])


def test_update_metrics_get_their_stage():
    assert update_metrics({"grad_norm": 0.5}) == {names.UPDATE_GRAD_NORM: 0.5}


SCORED = st.builds(
    scored_sample,
    reward=st.floats(0, 2),
    answer=st.sampled_from([0.0, 1.0]),
    f_beta=st.floats(0, 1),
    recall=st.floats(0, 1),
    num_tokens=st.integers(0, 9),
    outcome=st.sampled_from([outcome.value for outcome in ParseOutcome]),
    is_valid=st.booleans(),
)
GROUPS = st.lists(st.tuples(SCORED, SCORED), max_size=12)


@given(GROUPS, st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_two_ranks_measure_what_one_rank_would(groups, cut):
    def batch(some):
        return scored_batch(*[scored for group in some for scored in group])

    for count, finish in ((train_tally, train_metrics), (eval_tally, eval_metrics)):
        ranks = [count(batch(groups[:cut])), count(batch(groups[cut:]))]
        assert ranks[0].names == ranks[1].names, "vectors of the ranks must line up"
        vectors = zip(ranks[0].to_vector(), ranks[1].to_vector(), strict=True)
        summed = Tally.from_vector(ranks[0].names, [one + other for one, other in vectors])
        whole = finish(count(batch(groups)))
        split = finish(summed)
        assert split == pytest.approx(whole, rel=SUM_RTOL, abs=STD_ATOL, nan_ok=True)
