import pytest

from tests.support.slurm_cluster import missing, running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running Slurm, or a skip that says why there is none."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
