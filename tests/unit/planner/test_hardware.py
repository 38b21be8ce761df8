"""Clusters are read as people write them; a wrong one is named."""

import pytest

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.planner.hardware import ACCELERATORS, parse_cluster


def test_cluster_is_kind_gpus_and_nodes():
    cluster = parse_cluster("H100:8x16")
    assert (cluster.accelerator.name, cluster.gpus_per_node, cluster.nodes) == ("h100", 8, 16)
    assert cluster.gpus == 128


def test_groups_within_a_node_use_its_links():
    cluster = parse_cluster("h100:8x2")
    assert cluster.link_gb_per_s(8) == 450
    assert cluster.link_gb_per_s(9) == 50


@pytest.mark.parametrize("text", ["h100", "h100:8", "h100:0x1", "v100:8x1", "h100:8x16x2"])
def test_what_is_no_cluster_is_refused_with_what_was_given(text):
    with pytest.raises(ConfigError, match=f"--cluster '{text}'"):
        parse_cluster(text)


def test_every_accelerator_names_its_source():
    assert set(ACCELERATORS) == {"a100", "h100", "h200", "b200", "gb200"}
    assert all("NVIDIA" in one.source for one in ACCELERATORS.values())
