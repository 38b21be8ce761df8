"""An unfit node is named, with what is wrong with it, before a rank has started.

What nvidia-smi answers is given as text; no test of this project has run it on a broken GPU.
"""

import json
import time

import pytest

from launch.links import Finding
from launch.preflight import check_node, gpu_problems, unfit_nodes, write_report
from launch.rendezvous import Place

WAIT_S = 0.3
HERE = ["localhost"]


def check(attempt, index, peers=HERE):
    place = Place(index=index, count=2, name=f"node{index}")
    return check_node(attempt, place, peers=peers, gpus=0, wait_s=WAIT_S, max_skew_s=5.0)


def test_nodes_that_share_a_folder_are_fit(tmp_path):
    assert check(tmp_path, 0) == []
    assert check(tmp_path, 1) == []


def test_folder_that_is_not_shared_is_noticed(tmp_path):
    (problem,) = check(tmp_path, 1)
    assert problem.endswith("did not appear in 0.3 s: not a shared folder")


def test_clock_that_is_behind_is_noticed(tmp_path):
    (tmp_path / "canary.json").write_text(json.dumps({"at": time.time() + 3600}))
    assert check(tmp_path, 1) == ["its clock is 3600 s off the first node's"]


def test_name_that_nobody_knows_is_noticed(tmp_path):
    (problem,) = check(tmp_path, 0, peers=["localhost", "no-such-node.invalid"])
    assert problem.startswith("cannot resolve the name no-such-node.invalid")


def test_unfit_are_those_with_problems_and_those_that_said_nothing(tmp_path):
    write_report(tmp_path, "a", [])
    write_report(tmp_path, "b", ["no port"])
    assert unfit_nodes(tmp_path, ["a", "b", "c"]) == {
        "b": ["no port"],
        "c": ["left no report: it cannot start a process or write to run.dir"],
    }


def write_links(attempt, figures):
    """Reports of a ring; ``figures`` by link, 0 for one that is broken."""
    links = {}
    for (low, high), gb_per_s in figures.items():
        finding = Finding(gb_per_s=gb_per_s, problem="" if gb_per_s else "no answer")
        # The other end saw it otherwise; the worse one counts.
        links.setdefault(low, {})[high] = finding
        links.setdefault(high, {})[low] = Finding(gb_per_s=gb_per_s + 1)
    for node, findings in links.items():
        write_report(attempt, node, [], findings)


def test_node_whose_links_are_slow_or_broken_is_unfit(tmp_path):
    write_links(tmp_path, {("a", "b"): 9.0, ("b", "c"): 0.5, ("c", "d"): 0.0, ("a", "d"): 8.0})
    assert unfit_nodes(tmp_path, list("abcd"), min_gb_per_s=1.0) == {
        "c": [
            "exchanges no tensors as it should: b with c: "
            "0.50 GB/s is below min_all_reduce_gb_per_s=1",
            "exchanges no tensors as it should: c with d: no answer",
        ]
    }


def test_slow_links_are_let_pass_where_no_limit_is_set(tmp_path):
    write_links(tmp_path, {("a", "b"): 0.1, ("b", "c"): 9.0, ("a", "c"): 9.0})
    assert unfit_nodes(tmp_path, list("abc")) == {}


def test_node_that_is_unfit_anyway_spoils_no_link_of_its_neighbours(tmp_path):
    write_links(tmp_path, {("a", "b"): 0.0, ("b", "c"): 0.0, ("a", "c"): 9.0})
    write_report(tmp_path, "b", ["no port"])
    assert unfit_nodes(tmp_path, list("abc"), min_gb_per_s=1.0) == {"b": ["no port"]}


@pytest.mark.parametrize(
    ("shown", "problems"),
    [
        pytest.param("0, 0\n1, 0\n", [], id="healthy"),
        pytest.param("0, [N/A]\n1, [N/A]\n", [], id="without-ecc"),
        pytest.param("0, 0\n", ["2 GPUs wanted, 1 found"], id="one-lost"),
        pytest.param("0, 0\n1, 12\n", ["GPU 1 has 12 uncorrected memory errors"], id="memory"),
    ],
)
def test_lost_gpus_and_memory_errors_are_read_from_nvidia_smi(shown, problems):
    assert list(gpu_problems(shown, 2)) == problems
