"""Rate limit: what passes in a minute, in which order, on a clock that only sleeping moves."""

import asyncio

import pytest

from megatron_longrlvr.chat.limits import RateLimit
from tests.support.clocks import TestClock


def times_of_passing(per_minute, amounts):
    """Seconds after the start at which each amount may pass, all asked for at once."""
    clock = TestClock()
    limit = RateLimit(per_minute, clock)
    passed = []

    async def take(index, amount):
        await limit.take(amount)
        passed.append((index, clock.now() - 100))

    async def everything():
        await asyncio.gather(*[take(index, amount) for index, amount in enumerate(amounts)])

    asyncio.run(everything())
    assert [index for index, _ in passed] == sorted(index for index, _ in passed)
    return [time for _, time in passed]


def test_sixty_a_minute_pass_one_a_second():
    assert times_of_passing(60, [1] * 4) == pytest.approx([0, 1, 2, 3])


def test_a_second_of_a_faster_limit_may_pass_at_once():
    # 3 a second: three at once, then one every third of a second.
    assert times_of_passing(180, [1] * 6) == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1])


def test_an_amount_above_the_bucket_passes_and_is_waited_for_by_the_next():
    # 10 a second, bucket of 10: 30 pass at once and leave a debt of 20; 10 need a level of 10.
    assert times_of_passing(600, [30, 10]) == pytest.approx([0, 3])


def test_tokens_that_were_not_used_are_given_back():
    clock = TestClock()
    limit = RateLimit(60, clock)

    async def take_twice():
        await limit.take(1)
        limit.correct(-1)
        await limit.take(1)
        assert clock.now() == 100
        limit.correct(2)
        await limit.take(1)
        assert clock.now() == pytest.approx(103)

    asyncio.run(take_twice())
