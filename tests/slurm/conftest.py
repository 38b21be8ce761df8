import pytest

from tests.support.slurm_cluster import (
    can_cut_networks,
    missing,
    running_cluster,
    slurm,
    wait_for,
)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running Slurm, or a skip that says why there is none."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def networks(cluster):
    """The cluster, whose nodes have networks that can be cut, or a skip."""
    if not can_cut_networks():
        pytest.skip("networks of nodes need a kernel with bridges, veth and tbf, and iproute2")
    return cluster


@pytest.fixture(autouse=True)
def nothing_left_running(cluster):  # noqa: ARG001 - it must be up
    """A job that a failed test left behind would keep the nodes from the next one."""
    yield
    slurm("scancel", "--user=root")
    wait_for(lambda: not slurm("squeue", "-h"), "the queue to be empty", limit_s=300)
