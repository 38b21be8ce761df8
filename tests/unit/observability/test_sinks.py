"""Sinks: what is asked for is opened or refused with what to install; never left out quietly."""

import math
import sys
from types import SimpleNamespace

import pytest

from megatron_longrlvr.observability.metric_log import MetricKind, MetricRecord, read_metric_log
from megatron_longrlvr.observability.sinks import open_sinks


@pytest.fixture(autouse=True)
def without_wandb_key(monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def open_run(run_dir, *, tensorboard=False, **options):
    return open_sinks(
        run_dir, run_name="toy", config={"run": {"seed": 3}}, tensorboard=tensorboard, **options
    )


def read_scalars(directory):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(directory))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_log_alone_by_default(tmp_path):
    sinks = open_run(tmp_path)
    sinks.write({"reward/mean": 0.5}, step=1, kind=MetricKind.TRAIN)
    sinks.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert read_metric_log(tmp_path / "metrics.jsonl") == [
        MetricRecord(step=1, kind=MetricKind.TRAIN, metrics={"reward/mean": 0.5})
    ]


def test_tensorboard_gets_the_same_numbers_without_the_unmeasured(tmp_path):
    sinks = open_run(tmp_path, tensorboard=True)
    sinks.write({"reward/mean": 0.5, "update/kl": math.nan}, step=1, kind=MetricKind.TRAIN)
    sinks.write({"reward/mean": 0.75}, step=2, kind=MetricKind.TRAIN)
    sinks.close()
    assert read_scalars(tmp_path / "tensorboard") == {"reward/mean": [(1, 0.5), (2, 0.75)]}


def test_resumed_tensorboard_forgets_the_steps_made_again(tmp_path):
    sinks = open_run(tmp_path, tensorboard=True)
    for step, value in ((1, 0.5), (2, 0.25)):
        sinks.write({"reward/mean": value}, step=step, kind=MetricKind.TRAIN)
    sinks.close()
    sinks = open_run(tmp_path, tensorboard=True, last_kept_step=1)
    sinks.write({"reward/mean": 1.0}, step=2, kind=MetricKind.TRAIN)
    sinks.close()
    assert read_scalars(tmp_path / "tensorboard") == {"reward/mean": [(1, 0.5), (2, 1.0)]}


def test_missing_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RuntimeError, match="pip install tensorboard"):
        open_run(tmp_path, tensorboard=True)


def test_wandb_key_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RuntimeError, match="pip install wandb, or unset WANDB_API_KEY"):
        open_run(tmp_path)


def test_wandb_gets_name_config_and_numbers(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("end")
    )
    package = SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setitem(sys.modules, "wandb", package)
    sinks = open_run(tmp_path)
    sinks.write({"reward/mean": 0.5}, step=4, kind=MetricKind.TRAIN)
    sinks.close()
    assert calls == [
        {
            "project": "megatron-longrlvr",
            "name": "toy",
            "dir": str(tmp_path),
            "config": {"run": {"seed": 3}},
        },
        (4, {"reward/mean": 0.5}),
        "end",
    ]
