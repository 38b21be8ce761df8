"""Sleep and waking of an engine, against a record of vLLM's own rules for both.

vLLM 0.32 (v1/executor/abstract.py) ignores a call that names a part which is awake already, and
one to sleep where the weights sleep; real memory is given back on GPU only.
"""

import pytest

from megatron_longrlvr.rollout.engine_memory import KV_CACHE, WEIGHTS, EngineMemory


class Executor:
    """What vLLM's executor does with its parts."""

    def __init__(self):
        self.asleep = set()
        self.calls = []

    def wake_up(self, tags):
        assert set(tags) <= self.asleep, "vLLM would ignore the call"
        self.asleep -= set(tags)
        self.calls.append(("wake", tuple(tags)))

    def sleep(self, level):
        assert not self.asleep, "vLLM would ignore the call, or part of it"
        self.asleep = {WEIGHTS, KV_CACHE}
        self.calls.append(("sleep", level))


@pytest.fixture
def executor():
    return Executor()


def test_the_cache_wakes_where_the_weights_are_awake_for_an_update(executor):
    memory = EngineMemory(executor, level=1)
    memory.sleep()
    memory.wake(WEIGHTS)
    assert executor.asleep == {KV_CACHE}
    memory.wake(WEIGHTS, KV_CACHE)
    assert executor.asleep == set()


def test_an_engine_of_which_a_part_is_awake_goes_to_sleep_as_a_whole(executor):
    memory = EngineMemory(executor, level=1)
    memory.sleep()
    memory.wake(WEIGHTS)
    memory.sleep()
    assert executor.asleep == {WEIGHTS, KV_CACHE}


@pytest.mark.parametrize(("level", "has_weights"), [(0, True), (1, True), (2, False)])
def test_weights_are_dropped_at_level_two_alone(executor, level, has_weights):
    memory = EngineMemory(executor, level=level)
    memory.sleep()
    assert memory.has_weights is has_weights
    assert memory.keeps_weights is has_weights


def test_level_zero_asks_vllm_for_nothing(executor):
    memory = EngineMemory(executor, level=0)
    memory.sleep()
    memory.wake(WEIGHTS, KV_CACHE)
    assert executor.calls == []
