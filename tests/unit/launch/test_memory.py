"""A job that its GPUs cannot hold is refused with the recipe's key, before anything is written."""

import pytest

from launch.cli import main
from launch.job import JobRequest, plan_job
from launch.memory import check_memory
from launch.site import NodeSection, Site
from megatron_longrlvr.errors import ConfigError

H100 = Site(name="test", node=NodeSection(gpus=8, gpu_type="h100"))


def planned(site, *overrides, recipe="llama31_70b", nodes=16):
    return check_memory(
        plan_job(JobRequest(recipe=recipe, overrides=overrides, nodes=nodes), site), site
    )


def test_recipe_that_fits_shows_its_peak():
    assert planned(H100).startswith("memory: 69.4 of 79.1 GiB")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        pytest.param(["layout.tp=2"], r"layout\.tp=2, layout\.pp=2", id="weights"),
        pytest.param(["model.recompute=selective"], r"model\.recompute=selective", id="layers"),
        pytest.param(
            ["rollout.vllm.memory_share=0.2"], r"rollout\.vllm\.memory_share=0\.2", id="engine"
        ),
    ],
)
def test_recipe_that_does_not_fit_names_its_key(overrides, key):
    with pytest.raises(ConfigError, match=f"^{key}"):
        planned(H100, *overrides)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        pytest.param({"gpus": 8}, "gpu_type is none of a100", id="unknown-gpu"),
        pytest.param({"gpus": 0, "processes": 2}, "no training job on GPUs", id="cpu"),
    ],
)
def test_what_cannot_be_planned_is_said(node, said):
    site = Site(name="test", node=NodeSection(**node))
    changed = ["rollout.prompts_per_step=64"]
    assert said in planned(site, *changed, recipe="tiny_cpu", nodes=1)


def test_check_of_what_does_not_fit_ends_with_the_key(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    profile = tmp_path / "h100.yaml"
    profile.write_text("name: mine\nnode: {gpus: 8, gpu_type: h100}\n")
    arguments = ["llama31_70b", "--site", str(profile), "--nodes", "16", "layout.cp=2"]
    assert main(["check", *arguments, "model.recompute=none"]) == 2
    assert "model.recompute=none: training takes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [profile]
