"""Job scripts are what a person would write: compared with golden files, clean for shellcheck.

`REWRITE_GOLDEN=1 pytest tests/unit/launch/test_render.py` writes the golden files anew.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from launch.job import CHECKOUT, JobRequest, plan_job
from launch.render import render_script, write_job
from launch.site import Site
from launch.stage import DataStage
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden"
SCRIPTS = sorted([*(CHECKOUT / "slurm").glob("*.sh"), *(CHECKOUT / "slurm").glob("*.sbatch")])

CPU_NODE = {"gpus": 0, "processes": 2, "cpus": 16, "memory": "64G", "exclusive": False}
SITES = {
    "train": {
        "partition": "gpu",
        "account": "mine",
        "qos": "high",
        "exclude": ["node7", "node8"],
        "directives": ["--switches=1"],
        "nodes": 4,
        "node": {"gpus": 8, "gpu_type": "h100", "gpu_request": "gres", "cpus": 96},
        "container": {
            "kind": "pyxis",
            "image": "/images/longrlvr.sqsh",
            "mounts": ["/lustre:/lustre", "/scratch:/scratch:ro"],
        },
        "env": {"NCCL_SOCKET_IFNAME": "ib0", "GREETING": "it's $HOME"},
    },
    "evaluate": {
        "node": {"gpus": 4},
        "container": {
            "kind": "apptainer",
            "image": "/images/longrlvr.sif",
            "mounts": ["/lustre:/lustre"],
        },
    },
    "convert": {
        "node": CPU_NODE,
        "modules": ["gcc/13", "python/3.12"],
        "setup": ["ulimit -n 4096"],
    },
    "sweep": {"node": CPU_NODE, "time": "1-00:00:00"},
    "data": {"node": CPU_NODE},
    "flat": {"nodes": 2, "node": {"gpus": 8, "cpus": 96}},
    "heterogeneous": {
        "partition": "gpu",
        "nodes": 2,
        "node": {"gpus": 8, "cpus": 96},
        "servers": {"partition": "inference", "node": {"gpus": 4, "cpus": 48, "memory": "256G"}},
    },
}
SERVERS = ("rollout.engine=vllm_server", "rollout.server.transfer_dir=/lustre/transfer")
STAGE = """
name: questions
dir: /lustre/data/questions
shards: 64
max_concurrent: 8
command: [longrlvr, data, questions, "documents/{shard:05d}.jsonl"]
"""


def job_and_site(kind, folder="/lustre/runs/mine", *, stage=None):
    site = Site.model_validate({"name": "golden", **SITES[kind]})
    if kind == "data":
        return plan_job(JobRequest(recipe=str(stage), overrides=(), kind="data"), site), site
    overrides = (f"run.dir={folder}", "rollout.prompts_per_step=32", "algorithm.updates_per_step=1")
    has_servers = kind in {"flat", "heterogeneous"}
    request = JobRequest(
        recipe="tiny_cpu",
        overrides=(*overrides, "algorithm.proximal=recompute", *SERVERS)
        if has_servers
        else overrides,
        kind="train" if has_servers else kind,
        sweep=("optimizer.lr=1e-6,2e-6",) if kind == "sweep" else (),
        server_nodes=3 if has_servers else 0,
        is_heterogeneous=kind == "heterogeneous",
    )
    return plan_job(request, site), site


def rendered(kind, tmp_path):
    stage = tmp_path / "stage.yaml"
    stage.write_text(STAGE)
    job, site = job_and_site(kind, stage=stage)
    command = ["python", "-m", "launch", "render", "tiny_cpu", "--site", "golden.yaml"]
    text = render_script(job, site, command=command, workdir=Path("/lustre/work"))
    return text.replace(str(CHECKOUT), "/lustre/longrlvr")


def shellcheck(*paths):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    return subprocess.run(
        ["shellcheck", "-x", "-P", str(CHECKOUT / "slurm"), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize("kind", SITES)
def test_job_script_is_the_golden_one(kind, tmp_path):
    path, text = GOLDEN / f"{kind}.sbatch", rendered(kind, tmp_path)
    if os.environ.get("REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("kind", SITES)
def test_job_script_is_clean_for_shellcheck(kind, tmp_path):
    path = tmp_path / "job.sbatch"
    path.write_text(rendered(kind, tmp_path))
    assert shellcheck(path) == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shipped_script_is_clean_for_shellcheck(script):
    assert shellcheck(script) == ""


def test_recipe_beside_the_script_is_the_resolved_one(tmp_path):
    job, site = job_and_site("train", tmp_path / "run")
    script = write_job(job, site, command=["test"], workdir=tmp_path)
    assert script == tmp_path / "run" / "job" / "job.sbatch"
    assert load_config(str(script.parent / "recipe.json"), [], TrainConfig) == job.configs[0]
    assert (script.parent / "lib.sh").read_text() == (CHECKOUT / "slurm" / "lib.sh").read_text()


def test_sweep_has_a_recipe_for_each_task(tmp_path):
    job, site = job_and_site("sweep", tmp_path / "run")
    folder = write_job(job, site, command=["test"], workdir=tmp_path).parent / "recipes"
    rates = [
        load_config(str(path), [], TrainConfig).optimizer.lr for path in sorted(folder.iterdir())
    ]
    assert rates == [1e-6, 2e-6]


def test_value_of_a_variable_reaches_the_shell_as_it_is(tmp_path):
    line = next(line for line in rendered("train", tmp_path).splitlines() if "GREETING" in line)
    shown = subprocess.run(
        ["bash", "-c", f'{line}; echo "$GREETING"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "it's $HOME\n"


def test_value_of_several_lines_stays_in_the_comment():
    job, site = job_and_site("evaluate")
    text = render_script(job, site, command=["launch", "a=[b,\nc]"], workdir=Path("/here"))
    before = text.partition("set -euo pipefail")[0]
    assert all(line.startswith("#") for line in before.splitlines())


@pytest.mark.parametrize("kind", ["evaluate", "data"])
def test_working_directory_that_sbatch_would_cut_is_refused(tmp_path, kind, monkeypatch):
    here = tmp_path / "my work"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "stage.yaml").write_text(STAGE.replace("/lustre/data", "data"))
    with pytest.raises(ConfigError, match=r"'.*/my work.*' may hold letters, digits"):
        write_job(
            *job_and_site(kind, tmp_path / "run", stage="stage.yaml"), command=["l"], workdir=here
        )
    assert [path.name for path in here.iterdir()] == ["stage.yaml"]
    assert not (tmp_path / "run").exists()


def test_data_stage_is_kept_beside_its_script(tmp_path):
    stage = tmp_path / "stage.yaml"
    stage.write_text(STAGE.replace("/lustre/data", str(tmp_path)))
    job, site = job_and_site("data", stage=stage)
    folder = write_job(job, site, command=["test"], workdir=tmp_path).parent
    assert load_config(str(folder / "stage.json"), [], DataStage) == job.stage
