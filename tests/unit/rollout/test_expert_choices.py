"""The choices that vLLM tells request by request, put together for a group."""

import numpy as np

from megatron_longrlvr.rollout.expert_choices import choices_of_group


def rows(*experts):
    """One expert in one layer for each token."""
    return np.array(experts, dtype=np.uint8)[:, None, None]


def test_prompt_is_told_by_the_first_sample_and_shared():
    # A prompt of 2 tokens; responses of 3, 1 and 2 tokens, whose last is never run.
    found = choices_of_group([rows(1, 2, 3, 4), None, rows(5)], num_prompt_tokens=2)
    assert [one.prompt.ravel().tolist() for one in found] == [[1, 2]] * 3
    assert [one.response.ravel().tolist() for one in found] == [[3, 4], [], [5]]
    assert len({id(one.prompt) for one in found}) == 1


def test_nothing_is_made_of_nothing():
    assert choices_of_group([None, None], num_prompt_tokens=2) == [None, None]
