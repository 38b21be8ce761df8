"""Samples come back from a checkpoint as they were, to the last bit, with their prompts."""

import math

import pytest

from megatron_longrlvr.checkpoint.rollouts import load_rollouts, rollouts_path, save_rollouts
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    PromptBatch,
    RolloutBatch,
    Sample,
)
from tests.support.word_prompts import word_prompt

PROMPTS = [word_prompt("a"), word_prompt("b")]


def sample(prompt, index, **changes):
    content = {
        "token_ids": (3, 7, 2),
        "text": "größer\n<CHUNK_3>",
        "behavior_logprobs": (-math.pi, -1 / 3, 0.0),
        "finish_reason": FinishReason.STOP,
        "policy_version": PolicyVersion(4),
        "later_versions": (),
    }
    return Sample(prompt=prompt, sample_index=index, **{**content, **changes})


def batch(step):
    mixed = {"policy_version": PolicyVersion(1), "later_versions": (PolicyVersion(2),)}
    nothing = {"token_ids": (), "text": "", "behavior_logprobs": ()}
    samples = [
        sample(PROMPTS[0], 0),
        sample(PROMPTS[0], 1, **mixed, finish_reason=FinishReason.LENGTH),
        sample(PROMPTS[1], 0, **nothing, finish_reason=FinishReason.ABORTED),
        sample(PROMPTS[1], 1, text=f"of step {step}"),
    ]
    return RolloutBatch(step=step, group_size=2, samples=samples)


def asked(step, prompts=PROMPTS):
    return PromptBatch(step=step, prompts=prompts, group_size=2)


def test_samples_come_back_as_they_were(tmp_path):
    save_rollouts(tmp_path, 3, [batch(7), batch(8)])
    stored = load_rollouts(tmp_path, 3)
    assert [one.step for one in stored] == [7, 8]
    assert [one.of(asked(one.step)) for one in stored] == [batch(7), batch(8)]


def test_nothing_was_saved_where_there_is_no_file(tmp_path):
    assert load_rollouts(tmp_path, 0) == ()


def test_samples_of_other_prompts_are_refused(tmp_path):
    save_rollouts(tmp_path, 0, [batch(7)])
    (stored,) = load_rollouts(tmp_path, 0)
    with pytest.raises(CheckpointError, match="answers prompt a where the data now have b"):
        stored.of(asked(7, PROMPTS[::-1]))


def test_file_that_cannot_be_written_is_named(tmp_path):
    rollouts_path(tmp_path, 0).mkdir(parents=True)  # something else lies there
    with pytest.raises(CheckpointError, match=r"cannot write .*replica_00000\.safetensors"):
        save_rollouts(tmp_path, 0, [batch(7)])


def test_file_that_is_none_is_named(tmp_path):
    rollouts_path(tmp_path, 0).parent.mkdir()
    rollouts_path(tmp_path, 0).write_text("no tensors")
    with pytest.raises(CheckpointError, match=r"replica_00000\.safetensors does not hold samples"):
        load_rollouts(tmp_path, 0)
