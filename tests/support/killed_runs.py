"""Runs that are killed at a moment and started again, and what is left of them to compare."""

from __future__ import annotations

from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import list_samples, read_samples
from megatron_longrlvr.trainer.session import run_training
from tests.support.moments import die_at
from tests.support.spawn import run_distributed

# What a clock or an allocator measures; a verdict of the first try may come from the cache later.
MEASURED = ("timing/", "memory/", "rollout/tokens_per_s", "refit/", "judge/")


def run(rank, world_size, config, moment=None, delay_s=0.0):  # noqa: ARG001
    if moment is not None:
        die_at(moment, delay_s)
    return run_training(config)


def records(run_dir):
    return [
        (
            record.kind.value,
            record.step,
            {
                name: value
                for name, value in record.metrics.items()
                if not name.startswith(MEASURED)
            },
        )
        for record in read_metric_log(run_dir / "metrics.jsonl")
    ]


def samples(run_dir):
    return [record for path in list_samples(run_dir) for record in read_samples(path)]


def weights(run_dir):
    return (run_dir / "hf" / "model.safetensors").read_bytes()


def how_it_ends(config, moment, delay_s, *, num_ranks=2):
    try:
        return str(run_distributed(run, num_ranks, config, moment, delay_s))
    except AssertionError as error:
        return str(error)
