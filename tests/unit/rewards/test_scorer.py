"""Scorer: whole responses in, rewards and their parts out, by the strict and the tolerant rule."""

import pytest

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.rewards.scorer import REWARD_PARTS, RewardScorer
from megatron_longrlvr.stages import FinishReason, PolicyVersion, Prompt, RolloutBatch, Sample

PROMPT = Prompt(
    prompt_id="p",
    text="",
    token_ids=[0],
    question="",
    chunks=["a", "b", "c"],
    evidence_chunk_ids=frozenset({0, 1}),
    reference_answers=["Paris", "City of Light"],
)
CITES_BOTH = "<useful_chunks><CHUNK_0> <CHUNK_1></useful_chunks>"
# P = 2/4 as written, 2/3 as a set; R = 1
CITES_TWO_AND_ONE_TWICE = "<useful_chunks><CHUNK_0> <CHUNK_2> <CHUNK_2> <CHUNK_1></useful_chunks>"
RIGHT = "<answer>the city of light</answer>"
WRONG = "<answer>London</answer>"


def sample(text, *, finish_reason=FinishReason.STOP, index=0):
    return Sample(
        prompt=PROMPT,
        sample_index=index,
        token_ids=[1],
        text=text,
        behavior_logprobs=[-1.0],
        finish_reason=finish_reason,
        policy_version=PolicyVersion(0),
    )


def score(*samples, **settings):
    rollouts = RolloutBatch(step=3, group_size=len(samples), samples=samples)
    return RewardScorer(RewardsConfig(**settings)).score(rollouts)


def score_text(text, **settings):
    return score(sample(text), **settings).scored[0]


def parts(**nonzero):
    return {**dict.fromkeys(REWARD_PARTS, 0.0), **nonzero}


PERFECT_CONTEXT = {"context_f_beta": 1.0, "context_precision": 1.0, "context_recall": 1.0}


@pytest.mark.parametrize(
    ("text", "reward", "expected_parts"),
    [
        pytest.param(
            CITES_BOTH + RIGHT,
            2.0,
            parts(answer=1.0, format_ok=1.0, **PERFECT_CONTEXT),
            id="right-and-grounded",
        ),
        pytest.param(
            CITES_BOTH + WRONG,
            0.1,
            parts(format_ok=1.0, **PERFECT_CONTEXT),
            id="wrong-but-grounded",
        ),
        # F2 = (5 * 2/3) / (4 * 2/3 + 1) = 10/11
        pytest.param(
            CITES_TWO_AND_ONE_TWICE + WRONG,
            1 / 11,
            parts(
                format_ok=1.0, context_f_beta=10 / 11, context_precision=2 / 3, context_recall=1.0
            ),
            id="repeated-id-counts-once",
        ),
        pytest.param(CITES_BOTH, 0.0, parts(), id="no-answer-earns-nothing"),
        pytest.param(RIGHT, 0.0, parts(), id="no-citation-earns-nothing"),
        pytest.param(CITES_BOTH + RIGHT + RIGHT, 0.0, parts(), id="second-answer-earns-nothing"),
        pytest.param("", 0.0, parts(), id="empty"),
    ],
)
def test_strict_rule(text, reward, expected_parts):
    scored = score_text(text)
    assert scored.reward == pytest.approx(reward)
    assert scored.reward_parts == pytest.approx(expected_parts)
    assert scored.is_valid


@pytest.mark.parametrize(
    ("text", "reward", "expected_parts"),
    [
        pytest.param(CITES_BOTH, 0.1, parts(**PERFECT_CONTEXT), id="no-answer-keeps-the-context"),
        pytest.param(RIGHT, 1.0, parts(answer=1.0), id="no-citation-keeps-the-answer"),
        pytest.param(
            CITES_BOTH + RIGHT,
            2.0,
            parts(answer=1.0, format_ok=1.0, **PERFECT_CONTEXT),
            id="both",
        ),
    ],
)
def test_under_the_tolerant_rule_a_missing_block_costs_its_own_part(text, reward, expected_parts):
    scored = score_text(text, parser="tolerant")
    assert scored.reward == pytest.approx(reward)
    assert scored.reward_parts == pytest.approx(expected_parts)


@pytest.mark.parametrize(
    ("variant", "reward"),
    [
        pytest.param("longrlvr", 1 + 10 / 11, id="longrlvr"),
        # P = 1/2, R = 1: F2 = 2.5 / 3
        pytest.param("authors_code", 1 + 5 / 6, id="authors-code"),
        pytest.param("outcome_only", 1.0, id="outcome-only"),
        pytest.param("context_only", 10 / 11, id="context-only"),
    ],
)
def test_variant_decides_the_reward_and_never_the_answer_part(variant, reward):
    scored = score_text(CITES_TWO_AND_ONE_TWICE + RIGHT, variant=variant)
    assert scored.reward == pytest.approx(reward)
    assert scored.reward_parts["answer"] == 1.0
    assert scored.reward_parts["context_recall"] == 1.0


def test_verifier_comes_from_the_recipe():
    assert score_text(CITES_BOTH + RIGHT, answer="exact").reward == pytest.approx(0.1)
    assert score_text(CITES_BOTH + RIGHT, answer="normalized").reward == pytest.approx(2.0)


@pytest.mark.parametrize("parser", ["strict", "tolerant"])
def test_aborted_sample_is_invalid_and_has_no_reward(parser):
    aborted = sample(CITES_BOTH + RIGHT, finish_reason=FinishReason.ABORTED)
    (scored,) = score(aborted, parser=parser).scored
    assert not scored.is_valid
    assert (scored.reward, scored.reward_parts) == (0.0, parts())


def test_sample_cut_off_by_length_is_valid():
    cut = sample(CITES_BOTH + "<answer>Par", finish_reason=FinishReason.LENGTH)
    (scored,) = score(cut).scored
    assert scored.is_valid
    assert scored.reward == 0.0


def test_what_was_read_from_the_response_is_kept():
    scored = score_text(CITES_TWO_AND_ONE_TWICE + WRONG)
    assert list(scored.cited_chunk_ids) == [0, 2, 2, 1]
    assert scored.answer == "London"


def test_samples_keep_their_order_and_batch():
    batch = score(sample("", index=0), sample(CITES_BOTH + RIGHT, index=1))
    assert [scored.sample.sample_index for scored in batch.scored] == [0, 1]
    assert [scored.reward for scored in batch.scored] == pytest.approx([0.0, 2.0])
    assert (batch.step, batch.group_size) == (3, 2)
