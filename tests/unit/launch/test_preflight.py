"""An unfit node is named, with what is wrong with it, before a rank has started.

What nvidia-smi answers is given as text; no test of this project has run it on a broken GPU.
"""

import json
import time

import pytest

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
