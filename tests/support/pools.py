"""Fixtures: one world of ranks per size and test session, started at its first use.

A conftest takes them over with ``from tests.support.pools import pool1, pool2, pool4, pool8``.
"""

import pytest

from tests.support.spawn import DistributedPool


@pytest.fixture(scope="session")
def pool1():
    with DistributedPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def pool2():
    with DistributedPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def pool4():
    with DistributedPool(4) as pool:
        yield pool


@pytest.fixture(scope="session")
def pool8():
    with DistributedPool(8) as pool:
        yield pool
