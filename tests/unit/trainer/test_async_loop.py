"""Sampling ahead: how far it runs, how old samples get, and where a resumed run goes on.

Promise: a step's samples are never begun more than k steps early, never beyond the last step, and
carry the version they were begun with; the position for a checkpoint is that of the steps that were
handed out, whatever is under way.
"""

import pytest

from megatron_longrlvr.checkpoint.rollouts import load_rollouts, save_rollouts
from megatron_longrlvr.config.training import RolloutConfig
from megatron_longrlvr.rollout.engine import AheadEngine, SamplingParams
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.stages import PolicyVersion
from megatron_longrlvr.trainer.async_loop import SamplesAhead
from megatron_longrlvr.trainer.sampling import DataShare, PromptDraw, SamplesOnDemand
from tests.support.word_prompts import CountingSource, Words

PROMPTS, GROUP, LAST_STEP = 3, 2, 5
PARAMS = SamplingParams(max_response_tokens=9, temperature=1.0, seed=0)


class Run:
    """A loop that publishes after every step, and notes what it was given."""

    def __init__(self, max_staleness, *, cursor=0):
        self.source = CountingSource(cursor)
        self.engine = ScriptedEngine(self.respond, Words())
        self.begun = []
        share = DataShare(rank=0, size=1, all_agree=lambda flag: flag)
        rollout = RolloutConfig(prompts_per_step=PROMPTS, group_size=GROUP, max_response_tokens=9)
        prompts = PromptDraw(source=self.source, rollout=rollout, share=share)
        if max_staleness is None:
            self.sampler = SamplesOnDemand(prompts=prompts, engine=self.engine, params=PARAMS)
        else:
            self.sampler = SamplesAhead(
                prompts,
                self.engine,
                PARAMS,
                max_staleness=max_staleness,
                last_step=LAST_STEP,
            )

    def respond(self, step, prompt, index):
        if step not in self.begun:
            self.begun.append(step)
        return ScriptedResponse(text=f"{prompt.prompt_id} {index} at {step}")

    def steps(self, first=1, last=LAST_STEP):
        """(samples, age of the oldest one, furthest step begun, cursor) of each step."""
        for step in range(first, last + 1):
            told = []
            batch = self.sampler.sample(step, on_sample=told.append)
            assert told == list(batch.samples)
            oldest = min(sample.policy_version for sample in batch.samples)
            texts = [sample.text for sample in batch.samples]
            yield texts, step - 1 - oldest, self.begun[-1], self.sampler.cursor()
            self.engine.publish(PolicyVersion(step))


def test_the_scripted_engine_can_run_ahead():
    assert isinstance(ScriptedEngine(lambda *_: None, Words()), AheadEngine)


def test_without_staleness_it_is_sampling_on_demand():
    assert list(Run(0).steps()) == list(Run(None).steps())


@pytest.mark.parametrize("max_staleness", [1, 2, 9])
def test_samples_get_as_old_as_allowed_and_no_older(max_staleness):
    ages = [age for _, age, _, _ in Run(max_staleness).steps()]
    # Steps 1 to k+1 are begun before the first update, each later one k steps before its turn.
    assert ages == [min(step, max_staleness) for step in range(LAST_STEP)]


@pytest.mark.parametrize("max_staleness", [1, 2, 9])
def test_nothing_is_begun_too_early_or_beyond_the_last_step(max_staleness):
    furthest = [begun for _, _, begun, _ in Run(max_staleness).steps()]
    assert furthest == [min(step + max_staleness, LAST_STEP) for step in range(1, LAST_STEP + 1)]


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 9])
def test_every_step_has_the_prompts_it_would_have_had_on_demand(max_staleness):
    ahead = [texts for texts, *_ in Run(max_staleness).steps()]
    assert ahead == [texts for texts, *_ in Run(None).steps()]


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_resumed_run_loses_no_prompt_and_doubles_none(stopped_after):
    whole = [texts for texts, *_ in Run(2).steps()]
    *_, (_, _, _, cursor) = Run(2).steps(last=stopped_after)
    assert cursor == stopped_after * PROMPTS
    resumed = Run(2, cursor=cursor)
    assert resumed.sampler.cursor() == cursor
    rest = [texts for texts, *_ in resumed.steps(first=stopped_after + 1)]
    assert rest == whole[stopped_after:]


@pytest.mark.parametrize("max_staleness", [1, 2])
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_samples_that_were_left_unused_are_what_the_resumed_run_goes_on_with(
    tmp_path, max_staleness, stopped_after
):
    whole = list(Run(max_staleness).steps())
    stopped = Run(max_staleness)
    *_, (_, _, _, cursor) = stopped.steps(last=stopped_after)
    save_rollouts(tmp_path, 0, stopped.sampler.unused())
    assert list(stopped.steps(first=stopped_after + 1)) == whole[stopped_after:]  # kept as well
    resumed = Run(max_staleness, cursor=cursor)
    resumed.engine.publish(PolicyVersion(stopped_after))
    resumed.sampler.take_up(load_rollouts(tmp_path, 0))
    resumed.begun = [stopped_after + max_staleness]
    assert resumed.sampler.cursor() == cursor
    assert list(resumed.steps(first=stopped_after + 1)) == whole[stopped_after:]


def test_samples_older_than_the_recipe_now_allows_are_drawn_again(tmp_path):
    stopped = Run(2)
    *_, (_, _, _, cursor) = stopped.steps(last=1)
    save_rollouts(tmp_path, 0, stopped.sampler.unused())
    resumed = Run(1, cursor=cursor)
    resumed.engine.publish(PolicyVersion(1))
    resumed.sampler.take_up(load_rollouts(tmp_path, 0))
    assert [age for _, age, _, _ in resumed.steps(first=2)] == [1, 1, 1, 1]


def test_a_step_out_of_turn_is_an_error():
    run = Run(1)
    next(run.steps())
    with pytest.raises(AssertionError, match="step 4 was asked for when step 2 is due"):
        run.sampler.sample(4, on_sample=print)
