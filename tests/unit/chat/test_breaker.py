"""Circuit breaker: opens after failures in a row, lets one probe in, doubles the time between."""

import asyncio

import pytest

from megatron_longrlvr.chat.breaker import CircuitBreaker, CircuitState
from megatron_longrlvr.config.chat import ChatBreakerConfig
from tests.support.clocks import TestClock

CONFIG = ChatBreakerConfig(failures=3, open_s=10.0, max_open_s=25.0)


@pytest.fixture
def clock():
    return TestClock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(CONFIG, clock)


def wait(clock, seconds):
    asyncio.run(clock.sleep(seconds))


def fail(breaker, times):
    for _ in range(times):
        assert breaker.enter()
        breaker.fail()


def test_failures_in_a_row_open_it(breaker):
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker, 1)
    assert breaker.state is CircuitState.OPEN
    assert not breaker.enter()
    assert (breaker.wait_s(), breaker.num_openings) == (10, 1)


def test_a_success_in_between_starts_the_count_again(breaker):
    fail(breaker, 2)
    breaker.succeed()
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED


def test_one_request_at_a_time_probes_and_its_success_closes(breaker, clock):
    fail(breaker, 3)
    wait(clock, 10)
    assert breaker.enter()
    assert breaker.state is CircuitState.HALF_OPEN
    assert not breaker.enter()
    breaker.succeed()
    assert breaker.enter()
    assert breaker.enter()


def test_a_failed_probe_doubles_the_time_up_to_a_bound(breaker, clock):
    fail(breaker, 3)
    assert not breaker.is_down
    for open_s in (10, 20, 25, 25):
        assert breaker.wait_s() == open_s
        wait(clock, open_s)
        assert breaker.enter()
        breaker.fail()
        assert breaker.is_down
    assert breaker.num_openings == 1
    breaker.succeed()
    assert not breaker.is_down
    fail(breaker, 3)
    assert breaker.wait_s() == 10


def test_a_probe_that_was_given_up_leaves_room_for_another(breaker, clock):
    fail(breaker, 3)
    wait(clock, 10)
    assert breaker.enter()
    breaker.abandon()
    wait(clock, 10)
    assert breaker.enter()


def test_failures_that_arrive_late_do_not_prolong_an_open_circuit(breaker):
    fail(breaker, 3)
    breaker.fail()
    assert (breaker.wait_s(), breaker.num_openings) == (10, 1)
