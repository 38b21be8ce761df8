"""Slow and broken links between nodes: who exchanges with whom, and which node is to blame.

The exchange itself is done by three processes that stand for nodes under three names of this
machine; slow networks of real jobs are in tests/slurm.
"""

import pytest

from launch.links import Exchange, blamed, measure_links, rounds
from tests.support.spawn import run_distributed

NODES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


def ring(count):
    return [link for turn in rounds(count) for link in turn]


@pytest.mark.parametrize("count", range(1, 12))
def test_every_node_meets_either_neighbour_once_and_one_at_a_time(count):
    expected = {tuple(sorted((place, (place + 1) % count))) for place in range(count)}
    assert sorted(ring(count)) == sorted(expected - {(0, 0)})
    for turn in rounds(count):
        ends = [place for link in turn for place in link]
        assert len(ends) == len(set(ends))
    assert len(rounds(count)) <= 3


@pytest.mark.parametrize(
    ("count", "bad_nodes", "expected"),
    [
        pytest.param(8, {3}, [3], id="one"),
        pytest.param(8, {0, 7}, [0, 7], id="neighbours"),
        pytest.param(8, {1, 5}, [1, 5], id="two"),
        pytest.param(3, {1}, [1], id="of-three"),
        pytest.param(2, {1}, [0, 1], id="of-two-either"),
        pytest.param(8, set(), [], id="none"),
    ],
)
def test_node_all_of_whose_links_are_bad_is_to_blame(count, bad_nodes, expected):
    links = [(str(low), str(high)) for low, high in ring(count)]
    bad = [link for link in links if {int(end) for end in link} & bad_nodes]
    assert blamed(bad, links) == [str(place) for place in expected]


def test_both_ends_of_a_link_are_to_blame_where_their_other_links_are_well():
    links = [(str(low), str(high)) for low, high in ring(6)]
    assert blamed([("2", "3")], links) == ["2", "3"]


def exchange(rank, world_size, attempt):  # noqa: ARG001
    small = Exchange(gpus=0, mib=1, timeout_s=120)
    return dict(measure_links(attempt, NODES[rank], NODES, small, wait_s=60))


def test_neighbours_exchange_tensors_and_tell_how_fast(tmp_path):
    found = run_distributed(exchange, 3, tmp_path)
    for own, findings in zip(NODES, found, strict=True):
        assert findings.keys() == set(NODES) - {own}
        assert all(not one.problem and one.gb_per_s > 0 for one in findings.values())
