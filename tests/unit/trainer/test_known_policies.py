"""Policies whose habits are known, written by the scripted engine, show them in every diagnostic.

Prompt k of ten has ten chunks of equal length and the evidence k and k + 5, one in each half of the
document. Two samples a prompt, scored by the recipe's own parser and verifier. Expected numbers are
counted by hand; nothing is random.
"""

import pytest

from megatron_longrlvr.config.alarms import AlarmsConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.data.response_format import render_response
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.alarms import ALARMS, alarm_tally
from megatron_longrlvr.observability.grounding import grounding_tally, measured_means
from megatron_longrlvr.observability.signal import signal_tally
from megatron_longrlvr.observability.step_metrics import train_metrics, train_tally
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.stages import Prompt, PromptBatch
from tests.support.word_prompts import Words

NUM_PROMPTS = 5
NUM_CHUNKS = 10
REWARDS = RewardsConfig()
QUESTION = "what is the name of the ship"


def prompt(index):
    return Prompt(
        prompt_id=f"p{index}",
        text="",
        token_ids=[0] * 2000,
        question=QUESTION,
        chunks=["text"] * NUM_CHUNKS,
        evidence_chunk_ids=frozenset({index, index + 5}),
        reference_answers=("heron",),
    )


def written_by(habit):
    """Metrics of one step of a policy; ``habit(prompt, place)`` says what it cites and answers."""

    def script(step, prompt, place):  # noqa: ARG001
        cited, answer = habit(prompt, place)
        spaced = render_response(cited_chunk_ids=cited, answer=answer)
        for mark in ("<useful_chunks>", "</useful_chunks>", "</answer>"):
            spaced = spaced.replace(mark, f" {mark} ")
        return ScriptedResponse(text=spaced)

    prompts = [prompt(index) for index in range(NUM_PROMPTS)]
    rollouts = ScriptedEngine(script, Words()).generate(
        PromptBatch(step=1, prompts=prompts, group_size=2),
        SamplingParams(max_response_tokens=99, temperature=1.0, seed=0),
    )
    scored = RewardScorer(REWARDS).score(rollouts)
    tally = (
        grounding_tally(scored)
        + signal_tally(scored, REWARDS, advantage="grpo")
        + alarm_tally(scored.scored, AlarmsConfig())
    )
    return {**train_metrics(train_tally(scored)), **measured_means(tally)}


def check(found, expected):
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)


def test_a_policy_that_reads_the_first_half_only():
    """It cites the evidence there is in the first half, and answers right every other time."""
    found = written_by(
        lambda prompt, place: ([min(prompt.evidence_chunk_ids)], ("heron", "otter")[place])
    )
    halves = [1.0] * 5 + [0.0] * 5
    check(
        found,
        {names.grounding_by_decile(tenth, "recall"): seen for tenth, seen in enumerate(halves)},
    )
    check(
        found,
        {
            names.grounding_by_evidence(2, "recall"): 0.5,
            names.grounding_by_evidence(2, "precision"): 1.0,
            names.grounding_by_evidence(2, "f_beta"): 2.5 / 4.5,
            names.grounding_by_evidence(2, "answer"): 0.5,
            names.grounding_by_prompt(1024, "recall"): 0.5,
            # One of ten chunks is cited, in each tenth of the first half by one prompt of five.
            names.grounding_by_decile(0, "cited"): 0.2,
            names.grounding_by_decile(0, "precision"): 1.0,
            # One chunk of two is missing, so the other one's companion is there.
            names.SIGNAL_OTHERS_CITED_FRAC: 0.5,
            names.SIGNAL_OTHERS_CITED_INDEPENDENT_FRAC: 0.5,
            names.SIGNAL_RIGHT_GIVEN_ALL_CITED: None,
            names.SIGNAL_RIGHT_GIVEN_ONE_MISSING: 0.5,
            # Answers differ in every group; citations never do, and pull on nothing.
            names.SIGNAL_FLAT_ANSWER_FRAC: 0.0,
            names.SIGNAL_FLAT_CONTEXT_FRAC: 1.0,
            names.evidence_gradient("reward"): 0.0,
            # A right answer earns 1 + .9 F more: the parts of the difference.
            names.advantage_variance_frac("answer"): 1 / (1 + 0.9 * 2.5 / 4.5),
            names.advantage_variance_frac("joint"): 0.5 / (1 + 0.9 * 2.5 / 4.5),
            names.advantage_variance_frac("context"): 0.0,
            # F2 of 5/9 is below the threshold of grounded answers.
            names.REWARD_RIGHT_UNGROUNDED_FRAC: 0.5,
            names.REWARD_WRONG_UNGROUNDED_FRAC: 0.5,
            names.REWARD_GROUNDED_GIVEN_RIGHT: 0.0,
            names.parse_outcome_frac("ok"): 1.0,
        },
    )


def test_a_policy_that_never_answers_right_but_finds_evidence_now_and_then():
    """Outcome-only has nothing to say to it; the context reward has."""
    found = written_by(
        lambda prompt, place: (sorted(prompt.evidence_chunk_ids)[: 1 + place], "otter")
    )
    difference = 0.1 * (1 - 2.5 / 4.5)
    check(
        found,
        {
            names.SIGNAL_FLAT_ANSWER_FRAC: 1.0,
            names.SIGNAL_FLAT_REWARD_FRAC: 0.0,
            names.SIGNAL_RIGHT_GIVEN_ALL_CITED: 0.0,
            names.SIGNAL_OTHERS_CITED_FRAC: (0.5 + 1) / 2,
            names.evidence_gradient("answer"): 0.0,
            # Only the second chunk comes and goes: half of the difference, mean over two chunks.
            names.evidence_gradient("context"): difference / 2 / 2,
            names.advantage_variance_frac("context"): 1.0,
            names.REWARD_WRONG_GROUNDED_FRAC: 0.5,
        },
    )


@pytest.mark.parametrize(
    ("alarm", "habit"),
    [
        pytest.param(
            "cites_everything", lambda *_: (range(NUM_CHUNKS), "heron"), id="cites-everything"
        ),
        pytest.param("cites_nothing", lambda *_: ([], "heron"), id="cites-nothing"),
        pytest.param("copies_question", lambda *_: ([1], "the ship"), id="too-short-a-copy"),
        pytest.param("copies_question", lambda *_: ([1], "name of the ship"), id="copy"),
        pytest.param("repeats", lambda *_: ([1], "heron " * 60 + "x"), id="loop"),
    ],
)
def test_a_policy_that_games_the_reward_raises_its_alarm_and_no_other(alarm, habit):
    def every_other(prompt, place):
        return habit(prompt, place) if place else ([1], "heron")

    found = written_by(every_other)
    is_short = habit(None, 0)[1] == "the ship"
    expected = {names.alarm_frac(name): 0.0 for name in ALARMS}
    check(found, {**expected, names.alarm_frac(alarm): 0.0 if is_short else 0.5})


def test_repeated_and_invented_citations_are_counted():
    found = written_by(lambda *_: ([1, 1, 1, 88], "heron"))
    check(
        found,
        {
            names.GROUNDING_CITATIONS_MEAN: 4.0,
            names.GROUNDING_REPEATED_CITATIONS_FRAC: 0.5,
            names.GROUNDING_UNKNOWN_CITATIONS_FRAC: 0.25,
            names.ROLLOUT_CITED_CHUNKS_MEAN: 2.0,
        },
    )
