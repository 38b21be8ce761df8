"""Collecting a step's groups: dynamic sampling asks again, counts its rounds and never aborts."""

import pytest

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import AlgorithmConfig, RolloutConfig
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.stages import FinishReason
from megatron_longrlvr.trainer.collect import Collector
from megatron_longrlvr.trainer.sampling import DataShare, PromptDraw, SamplesOnDemand
from megatron_longrlvr.trainer.stopwatch import Stopwatch
from tests.support.word_prompts import CountingSource, Words

RIGHT = "<useful_chunks> <CHUNK_1> </useful_chunks> <answer> x </answer>"
WRONG = "<useful_chunks> <CHUNK_0> </useful_chunks> <answer> y </answer>"
GROUP = 2


def collector(script, *, enabled=True, max_rounds=3, share=None, prompts_per_step=4):
    rollout = RolloutConfig(
        prompts_per_step=prompts_per_step, group_size=GROUP, max_response_tokens=20
    )
    share = share or DataShare(rank=0, size=1, all_agree=lambda flag: flag)
    return Collector(
        sampler=SamplesOnDemand(
            prompts=PromptDraw(source=CountingSource(), rollout=rollout, share=share),
            engine=ScriptedEngine(script, Words()),
            params=SamplingParams(max_response_tokens=20, temperature=1.0, seed=0),
        ),
        scorer=RewardScorer(RewardsConfig()),
        rollout=rollout,
        algorithm=AlgorithmConfig(
            micro_batch_tokens=100,
            dynamic_sampling={"enabled": enabled, "max_rounds": max_rounds},
        ),
        share=share,
    )


def mixed(*informative):
    """Groups of these prompts have one right and one wrong sample; the others only wrong ones."""

    def script(step, prompt, index):  # noqa: ARG001
        is_right = prompt.prompt_id in informative and index == 0
        return ScriptedResponse(text=RIGHT if is_right else WRONG)

    return script


def prompt_ids(batch):
    return [scored.sample.prompt.prompt_id for scored in batch.scored[::GROUP]]


def test_without_dynamic_sampling_one_round_is_taken_as_it_is():
    collected = collector(mixed("p1"), enabled=False).collect(1, Stopwatch())
    assert collected.rounds == 1
    assert prompt_ids(collected.for_training) == ["p0", "p1", "p2", "p3"]


def test_rounds_go_on_until_the_quota_is_full_and_keep_no_more():
    script = mixed("p1", "p4", "p5", "p6", "p7")
    collected = collector(script).collect(1, Stopwatch())
    assert collected.rounds == 2
    assert prompt_ids(collected.for_training) == ["p1", "p4", "p5", "p6"]
    # Everything sampled is still reported.
    assert prompt_ids(collected.scored) == [f"p{index}" for index in range(8)]


@pytest.mark.parametrize("max_rounds", [1, 3])
def test_a_policy_that_teaches_nothing_ends_in_an_empty_batch_not_in_an_abort(max_rounds):
    collected = collector(mixed(), max_rounds=max_rounds).collect(1, Stopwatch())
    assert collected.rounds == max_rounds
    assert prompt_ids(collected.for_training) == []
    assert len(collected.scored.scored) == 4 * GROUP * max_rounds


def test_a_rank_with_enough_goes_on_while_another_lacks_groups():
    answers = iter([False, True])
    share = DataShare(rank=0, size=1, all_agree=lambda flag: flag and next(answers))
    script = mixed(*(f"p{index}" for index in range(12)))
    assert collector(script, share=share).collect(1, Stopwatch()).rounds == 2


def test_ranks_take_disjoint_shares_of_the_same_draw():
    seen = []
    for rank in range(2):
        share = DataShare(rank=rank, size=2, all_agree=lambda flag: flag)
        collected = collector(mixed(), enabled=False, share=share).collect(1, Stopwatch())
        seen.append(prompt_ids(collected.scored))
    assert seen == [["p0", "p2"], ["p1", "p3"]]


def test_aborted_samples_are_reported_but_do_not_make_a_group_informative():
    def script(step, prompt, index):  # noqa: ARG001
        if index == 0:
            return ScriptedResponse(text=RIGHT, finish_reason=FinishReason.ABORTED)
        return ScriptedResponse(text=WRONG)

    collected = collector(script, max_rounds=1).collect(1, Stopwatch())
    assert collected.for_training.scored == ()
    assert [scored.is_valid for scored in collected.scored.scored] == [False, True] * 4
