"""Whole runs whose answers are judged over HTTP, by a server that fails as it is told.

Promise: a judge that says what a rule would say makes the same run, bit for bit; one that fails
never makes a reward. A run that loses its judge stops between two steps with its own exit code and
a checkpoint, or waits, and ends as if nothing had happened; samples without a verdict are as if
they had never been sampled.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_longrlvr.config.load import write_config
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import list_samples, read_samples
from megatron_longrlvr.trainer.session import run_training
from tests.support.judge_server import JudgeServer, Reply, verdict
from tests.support.judges import judge_settings
from tests.support.runs import toy_config

ROOT = Path(__file__).parents[2]
STOPPED = JudgeUnavailable.EXIT_CODE
# What a clock or an allocator measures, and what the way to a verdict costs.
MEASURED = ("timing/", "memory/", "rollout/tokens_per_s", "judge/")
KEY = "s3cret-value"


def run(rank, world_size, config):  # noqa: ARG001
    os.environ["JUDGE_KEY"] = KEY
    return run_training(config)


def truthful(request):
    """What the rule ``unordered`` would say."""
    return verdict(
        any(sorted(one.split()) == sorted(request.answer.split()) for one in request.references)
    )


def lenient(request):
    """Yes to an answer that holds most words of a reference: some are, with an untrained policy."""
    words = set(request.answer.split())
    return verdict(
        any(2 * len(words & set(one.split())) > len(set(one.split())) for one in request.references)
    )


def is_probe(request):
    return request.question.startswith("What is two plus two")


def judged(run_dir, url, *, changes=None, **judge):
    """The toy run with all its answers judged; a request that fails is not sent again."""
    settings = judge_settings(
        endpoints=[{"url": url, "api_key_env": "JUDGE_KEY"}],
        retry__max_attempts=1,
        breaker__failures=1000,
        **judge,
    )
    settings = {"trainer__steps": 2, **(changes or {}), "rewards__judge": settings}
    return toy_config(run_dir, rewards__answer="judge", **settings)


def metrics(run_dir):
    """(kind, step) -> metrics that must repeat."""
    return {
        key: {name: value for name, value in record.items() if not name.startswith(MEASURED)}
        for key, record in all_metrics(run_dir).items()
    }


def all_metrics(run_dir):
    return {
        (record.kind.value, record.step): dict(record.metrics)
        for record in read_metric_log(run_dir / "metrics.jsonl")
    }


def samples(run_dir):
    return [record for path in list_samples(run_dir) for record in read_samples(path)]


def rewards(run_dir):
    return sorted(
        (one.step, one.prompt_id, one.sample_index, one.response_text, one.reward, one.is_valid)
        for one in samples(run_dir)
    )


def checkpoints(run_dir):
    return [path.name for path in sorted((run_dir / "checkpoints").iterdir())]


@pytest.fixture(scope="module")
def straight(pool2, tmp_path_factory):
    """Two steps on two ranks, with a judge that never fails."""
    run_dir = tmp_path_factory.mktemp("judged")
    with JudgeServer(lenient) as server:
        assert pool2.run(run, judged(run_dir, server.url)) == [0, 0]
    return run_dir


def requests_until(run_dir, step):
    """Requests of the measurement before the first step and of the steps up to ``step``."""
    found = all_metrics(run_dir)
    return int(sum(found["train", each]["judge/requests"] for each in range(1, step + 1)))


def test_a_judge_that_says_what_the_rule_says_makes_the_same_run(pool2, tmp_path):
    steps = {"trainer__steps": 1}
    assert pool2.run(run, toy_config(tmp_path / "rule", **steps)) == [0, 0]
    with JudgeServer(truthful) as server:
        config = judged(tmp_path / "judge", server.url, changes=steps)
        assert pool2.run(run, config) == [0, 0]
    assert metrics(tmp_path / "judge") == metrics(tmp_path / "rule")
    assert rewards(tmp_path / "judge") == rewards(tmp_path / "rule")


def test_what_the_judge_did_is_logged(straight):
    first = all_metrics(straight)["train", 1]
    answered = [one for one in samples(straight) if one.step == 1 and one.verdict is not None]
    assert first["judge/answers"] == len(answered) > 0
    yes = sum(one.verdict == "yes" for one in answered)
    assert 0 < yes < len(answered)
    assert first["judge/yes_frac"] == pytest.approx(yes / len(answered))
    assert first["judge/verifier_decided_frac"] == 0
    assert (first["judge/failed"], first["judge/paused_s"]) == (0, 0)


@pytest.mark.parametrize("status", [500, 200], ids=["errors", "prose"])
def test_without_any_verdict_no_reward_changes_and_the_run_stops_until_it_is_started_again(
    pool2, straight, tmp_path, status
):
    num_good = requests_until(straight, 1)

    def fails_after_first_step(request):
        good = request.index < num_good
        return lenient(request) if good else Reply(status=status, content="yes, I think")

    with JudgeServer(fails_after_first_step) as server:
        config = judged(
            tmp_path, server.url, outage={"action": "stop"}, changes={"trainer__save_every": 9}
        )
        assert pool2.run(run, config) == [STOPPED, STOPPED]
        assert not (tmp_path / "finished.json").exists()
        assert checkpoints(tmp_path) == ["step_000001"]
        assert list(metrics(tmp_path)) == [("eval", 0), ("train", 1)]
        assert {one.step for one in samples(tmp_path)} == {1}
        server.script = lenient
        assert pool2.run(run, config) == [0, 0]
    assert metrics(tmp_path) == metrics(straight)
    assert rewards(tmp_path) == rewards(straight)


def test_a_measurement_that_had_no_verdicts_is_made_when_the_run_goes_on(pool2, straight, tmp_path):
    with JudgeServer(lambda request: Reply(status=500)) as server:  # noqa: ARG005
        config = judged(tmp_path, server.url, outage={"action": "stop"})
        assert pool2.run(run, config) == [STOPPED, STOPPED]
        assert checkpoints(tmp_path) == ["step_000000"]
        assert metrics(tmp_path) == {}
        server.script = lenient
        assert pool2.run(run, config) == [0, 0]
    assert metrics(tmp_path) == metrics(straight)


def test_a_paused_run_goes_on_when_the_judge_is_back_as_if_nothing_had_happened(
    pool2, straight, tmp_path
):
    num_good = requests_until(straight, 1)
    probes = []

    def fails_until_it_was_probed(request):
        if is_probe(request):
            probes.append(request.index)
        # Two ranks probe at the same time; the first round of them fails.
        is_up = request.index < num_good or len(probes) > 2
        return lenient(request) if is_up else Reply(status=500)

    with JudgeServer(fails_until_it_was_probed) as server:
        outage = {"action": "pause", "probe_every_s": 0.1, "max_pause_s": 30.0}
        assert pool2.run(run, judged(tmp_path, server.url, outage=outage)) == [0, 0]
    assert metrics(tmp_path) == metrics(straight)
    assert rewards(tmp_path) == rewards(straight)
    assert all_metrics(tmp_path)["train", 1]["judge/paused_s"] == 0
    assert all_metrics(tmp_path)["train", 2]["judge/paused_s"] > 0


def test_what_was_judged_before_a_stop_is_not_asked_again(pool2, straight, tmp_path):
    num_good = requests_until(straight, 1) + 6
    with JudgeServer() as server:
        server.script = lambda request: (
            lenient(request) if request.index < num_good else Reply(status=500)
        )
        config = judged(tmp_path, server.url, outage={"action": "stop"}, cache="judge.sqlite")
        assert pool2.run(run, config) == [STOPPED, STOPPED]
        known = {(one.question, one.answer) for one in server.requests[:num_good]}
        server.requests.clear()
        server.script = lenient
        assert pool2.run(run, config) == [0, 0]
    asked = {(one.question, one.answer) for one in server.requests}
    assert asked
    assert not asked & known
    assert metrics(tmp_path) == metrics(straight)


def test_a_tenth_of_failures_is_left_out_of_everything_and_counted(pool2, tmp_path):
    def misses_some(request):
        is_missed = sum(request.answer.encode()) % 10 == 0
        return Reply(status=500) if is_missed else lenient(request)

    with JudgeServer(misses_some) as server:
        outage = {"max_failure_rate": 0.5, "action": "stop"}
        assert pool2.run(run, judged(tmp_path, server.url, outage=outage)) == [0, 0]
    for step in (1, 2):
        found = all_metrics(tmp_path)["train", step]
        mine = [one for one in samples(tmp_path) if one.step == step]
        missed = [one for one in mine if one.verdict == "none"]
        assert found["judge/failed"] == found["reward/invalid_samples"] == len(missed)
        assert found["judge/failed_server_error"] == len(missed)
        assert all(one.verdict_reason == "server_error" for one in missed)
        assert not any(one.is_valid for one in missed)
        valid = [one.reward for one in mine if one.is_valid]
        assert found["reward/mean"] == pytest.approx(sum(valid) / len(valid))
        assert found["update/skipped"] == 0
    assert any(one.verdict == "none" for one in samples(tmp_path))


def test_the_key_is_in_no_file_of_the_run(straight):
    files = [path for path in straight.rglob("*") if path.is_file()]
    assert straight / "config.json" in files
    assert "JUDGE_KEY" in (straight / "config.json").read_text()
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_the_command_says_why_it_stopped_and_ends_with_its_own_code(tmp_path):
    with JudgeServer(lambda request: Reply(status=500)) as server:  # noqa: ARG005
        config = judged(tmp_path / "run", server.url, outage={"action": "stop"})
        write_config(config, tmp_path / "recipe.json")  # JSON is YAML
        process = start("-m", "megatron_longrlvr", "train", tmp_path / "recipe.json")
    assert process.returncode == STOPPED, process.stdout
    assert "gave no verdict on 6 of 6 answers (server_error 6)" in process.stdout
    assert "a checkpoint is saved" in process.stdout
    assert KEY not in process.stdout
    manifest = tmp_path / "run" / "checkpoints" / "step_000000" / "manifest.json"
    assert json.loads(manifest.read_text())["step"] == 0


LAUNCHERS = {
    "torchrun": (
        "launch.torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "megatron_longrlvr",
        "train",
    ),
    "local": ("launch", "local", "--procs", "2"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_end_with_the_code_of_their_ranks(tmp_path, launcher):
    with JudgeServer(lambda request: Reply(status=500)) as server:  # noqa: ARG005
        config = judged(tmp_path / "run", server.url, outage={"action": "stop"})
        write_config(config, tmp_path / "recipe.json")
        process = start("-m", *LAUNCHERS[launcher], tmp_path / "recipe.json")
    assert process.returncode == STOPPED, process.stdout
    assert checkpoints(tmp_path / "run") == ["step_000000"]


def start(*arguments):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "JUDGE_KEY": KEY,
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-u", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
