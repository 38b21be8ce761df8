"""A site profile is checked when it is read: every complaint names the file and the key."""

import pytest
import yaml

from launch.site import SITES, load_site, seconds_of
from megatron_longrlvr.errors import ConfigError


def write(tmp_path, **content):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", **content}))
    return str(path)


def test_the_example_is_a_profile():
    site = load_site("example")
    assert (site.node.gpus, site.processes_per_node) == (8, 8)
    assert site.container.kind == "pyxis"
    assert load_site(str(SITES / "example.yaml")) == site


def test_a_node_without_gpus_runs_one_process():
    assert load_site_of(gpus=0).processes_per_node == 1
    assert load_site_of(gpus=0, processes=4).processes_per_node == 4


def load_site_of(**node):
    from launch.site import NodeSection, Site

    return Site(name="mine", node=NodeSection(**node))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"partitoin": "gpu"}, "did you mean 'partition'", id="unknown-key"),
        pytest.param({"node": {"gpu": 8}}, "'node.gpu'; did you mean 'node.gpus'", id="inner-key"),
        pytest.param({"nodes": "2"}, "nodes='2'", id="type"),
        pytest.param({"time": "4h"}, "time='4h'", id="time"),
        pytest.param({"time": 43200}, "time=43200: Value error, must be in quotes", id="seconds"),
        pytest.param({"account": "a; rm -rf /"}, "account='a; rm -rf /'", id="not-a-word"),
        pytest.param({"env": {"A B": "1"}}, "env", id="variable-name"),
        pytest.param({"container": {"kind": "docker"}}, "container.kind='docker'", id="container"),
        pytest.param({"container": {"kind": "pyxis"}}, "container.image is missing", id="no-image"),
        pytest.param(
            {"supervision": {"warning_s": 60, "stop_grace_s": 50}},
            "stop_grace_s=50 must end 20 s before warning_s=60 is over",
            id="grace-beyond-warning",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(tmp_path, content, message):
    path = write(tmp_path, **content)
    with pytest.raises(ConfigError) as caught:
        load_site(path)
    assert message in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"name: a\nnodes: 1\nnodes: 4\n", "'nodes' stands here twice", id="twice"),
        pytest.param(b"\xff\xfename: a", "cannot be read: 'utf-8' codec", id="no-text"),
        pytest.param(b"", "must hold a mapping of sections, got NoneType", id="empty"),
    ],
)
def test_profile_is_read_as_a_recipe_is(tmp_path, content, message):
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_site(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no site profile 'mars': give a YAML file or one of ex"):
        load_site("mars")


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        pytest.param("00:01:30", 90, id="minutes"),
        pytest.param("2-03:00:05", (2 * 24 + 3) * 3600 + 5, id="days"),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(limit, seconds):
    assert seconds_of(limit) == seconds
