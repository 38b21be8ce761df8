"""A job is checked as a whole before anything is written: recipe, size and time together."""

import pytest

from launch.job import JobRequest, combinations, plan_job
from launch.site import NodeSection, Site
from megatron_longrlvr.config.load import write_config
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.trainer.run_dir import claim_run_dir

SITE = Site(name="mine", nodes=2, node=NodeSection(gpus=0, processes=2))


def plan(*overrides, **request):
    return plan_job(JobRequest(recipe="tiny_cpu", overrides=overrides, **request), SITE)


def test_training_takes_its_size_from_the_profile_or_the_command_line(tmp_path):
    job = plan(f"run.dir={tmp_path}/run", "trainer.steps=7")
    assert (job.nodes, job.processes, job.time, job.steps) == (2, 2, "04:00:00", 7)
    assert job.base == tmp_path / "run"
    assert job.arguments[-1] == f"{tmp_path}/run/job/recipe.json"
    assert plan(nodes=4, time="01:00:00").nodes == 4


def test_relative_run_directory_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = plan("run.dir=runs/mine")
    assert job.base == tmp_path / "runs" / "mine"
    assert job.configs[0].run.dir == str(job.base)


def test_directory_of_a_run_stands_for_its_recipe(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = plan(f"run.dir={run}", "trainer.steps=7").configs[0]
    write_config(config, run / "config.json")
    request = JobRequest(recipe=str(run), overrides=(), kind="evaluate")
    assert plan_job(request, SITE).configs == (config,)


def test_other_jobs_of_a_run_have_folders_of_their_own(tmp_path):
    run = f"run.dir={tmp_path}/run"
    assert plan(run, kind="evaluate").base == tmp_path / "run" / "evaluate"
    assert plan(run, kind="convert").base == tmp_path / "run" / "convert"


def test_sweep_takes_every_combination(tmp_path):
    job = plan(
        f"run.dir={tmp_path}/sweep",
        kind="sweep",
        sweep=("optimizer.lr=0.1,0.2", "run.seed=1,2,3"),
    )
    assert job.array == 6
    assert [(c.optimizer.lr, c.run.seed) for c in job.configs[2:4]] == [(0.1, 3), (0.2, 1)]
    assert job.configs[5].run.dir == f"{tmp_path}/sweep/005"


def test_servers_that_weights_are_broadcast_to_need_no_shared_folder():
    overrides = ("rollout.server.transfer_dir=/dev/shm", "rollout.server.transport=broadcast")
    assert plan_servers(*overrides).servers.count == 16


@pytest.mark.parametrize(
    ("overrides", "request_fields", "message"),
    [
        pytest.param(["layout.tp=3"], {}, "layout.tp=3", id="layout"),
        pytest.param(["trainer.stps=1"], {}, "did you mean 'trainer.steps'", id="typo"),
        pytest.param(["run.dir='a b'"], {}, "run.dir=.*may hold letters", id="space"),
        pytest.param([], {"time": "00:05:00"}, "warning_s=300", id="shorter-than-warning"),
        pytest.param([], {"time": "5"}, "time='5' must read", id="time"),
        pytest.param([], {"time": ""}, "time='' must read", id="no-time"),
        pytest.param([], {"nodes": 0}, "nodes=0 must be at least 1", id="no-nodes"),
        pytest.param([], {"kind": "sweep"}, "--vary key=a,b,c", id="sweep-of-nothing"),
        pytest.param([], {"sweep": ("a=1",)}, "no other job has it", id="vary-without-sweep"),
        pytest.param(
            ["evaluation=null", "trainer.eval_every=0"],
            {"kind": "evaluate"},
            "no evaluation section",
            id="nothing-to-measure",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_its_key(overrides, request_fields, message):
    with pytest.raises(ConfigError, match=message):
        plan(*overrides, **request_fields)


def test_varied_setting_must_have_values():
    with pytest.raises(ConfigError, match="--vary 'lr=' must read key=a,b,c"):
        combinations(["lr="])


SERVED = (
    "rollout.engine=vllm_server",
    "algorithm.proximal=recompute",
    "rollout.server.transfer_dir=/lustre/transfer",
)
GPUS = Site(name="mine", node=NodeSection(gpus=8))
WIDE = ("rollout.prompts_per_step=8", "algorithm.updates_per_step=1")


def plan_servers(*overrides, site=GPUS, **request):
    request = {"server_nodes": 2, **request}
    return plan_job(
        JobRequest(recipe="tiny_cpu", overrides=(*WIDE, *SERVED, *overrides), **request), site
    )


def test_a_node_has_as_many_servers_as_its_gpus_hold():
    assert plan_servers("rollout.vllm.tensor_parallel=4").servers.per_node == 2
    assert plan_servers("rollout.vllm.tensor_parallel=8").servers.count == 2
    assert plan().servers is None


@pytest.mark.parametrize(
    ("overrides", "request_fields", "message"),
    [
        pytest.param(["rollout.engine=megatron"], {}, "rollout.engine=vllm_server", id="engine"),
        pytest.param(
            ["rollout.server.transfer_dir=/dev/shm"], {}, "transfer_dir=/dev/shm", id="not-shared"
        ),
        pytest.param(
            ["rollout.server.urls=[http://a:1]"], {}, "no rollout.server.urls", id="others"
        ),
        pytest.param(["rollout.vllm.tensor_parallel=16"], {}, "above the 8 GPUs", id="too-wide"),
        pytest.param([], {"server_nodes": 0, "is_heterogeneous": True}, "at least one", id="none"),
        pytest.param([], {"kind": "convert"}, "belong to --job train", id="other-job"),
    ],
)
def test_servers_that_cannot_be_are_refused_with_the_key(overrides, request_fields, message):
    with pytest.raises(ConfigError, match=message):
        plan_servers(*overrides, **request_fields)


def test_nodes_of_another_kind_need_a_request_of_their_own():
    content = {"name": "mine", "node": {"gpus": 8}, "servers": {"node": {"gpus": 4}}}
    site = Site.model_validate(content)
    with pytest.raises(ConfigError, match="use --heterogeneous"):
        plan_servers(site=site)
    assert plan_servers(site=site, is_heterogeneous=True).servers.per_node == 4


@pytest.mark.parametrize("kind", ["train", "sweep"])
def test_directory_of_another_run_is_refused_before_a_job_waits(tmp_path, kind):
    here = tmp_path if kind == "train" else tmp_path / "001"
    earlier = plan(f"run.dir={here}", "optimizer.lr=0.5")
    claim_run_dir(earlier.configs[0], here, may_write=True)
    (here / "checkpoints").mkdir()
    sweep = ("optimizer.eps=1e-8,1e-7",) if kind == "sweep" else ()
    message = rf"run.dir={here} holds another run: .*optimizer.lr: 0.5 -> 0.001"
    with pytest.raises(ConfigError, match=message):
        plan(f"run.dir={tmp_path}", "optimizer.lr=0.001", kind=kind, sweep=sweep)
