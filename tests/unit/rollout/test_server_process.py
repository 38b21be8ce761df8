"""Servers as processes: how they are started, and what is said when one does not come up.

The processes are real; vLLM, which may not be installed, is not started.
"""

import os
import subprocess
import sys

import pytest

from megatron_longrlvr.config.vllm import VllmConfig
from megatron_longrlvr.rollout.server_process import (
    ServerCommand,
    ServerProcess,
    server_command,
    start_servers,
)
from megatron_longrlvr.rollout.vllm_library import EngineShape


def command(tmp_path, **settings):
    shape = EngineShape(
        model_folder=tmp_path,
        dtype="bf16",
        head_dim=64,
        max_model_len=160,
        max_concurrent_samples=32,
        rank=0,
    )
    return server_command(shape, VllmConfig(**settings))


def options(arguments):
    """Options with their values."""
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {
        name: None if value.startswith("--") else value
        for name, value in pairs
        if name.startswith("--")
    }


def test_a_server_samples_as_the_run_expects_it(tmp_path):
    given = options(
        command(tmp_path, kv_cache_gib=0.5, block_tokens=32, tensor_parallel=2).arguments
    )
    expected = {
        "--model": str(tmp_path),
        "--dtype": "bfloat16",
        "--max-model-len": "160",
        "--max-num-seqs": "32",
        "--tensor-parallel-size": "2",
        "--logprobs-mode": "processed_logprobs",
        "--kv-cache-memory-bytes": str(2**29),
        "--block-size": "32",
        "--enable-prefix-caching": None,
    }
    assert {name: given[name] for name in expected} == expected


def test_switches_follow_the_settings(tmp_path):
    given = options(command(tmp_path, prefix_caching=False, chunked_prefill=True).arguments)
    assert {"--no-enable-prefix-caching", "--enable-chunked-prefill"} <= given.keys()
    assert "--enable-prefix-caching" not in given


def test_a_server_that_ends_at_once_is_an_error_with_its_log(tmp_path):
    bad = ServerCommand(arguments=["--no-such-option"], environment={})
    with pytest.raises(RuntimeError, match=r"ended with status [12] before it was ready") as error:
        start_servers(bad, count=2, logs=tmp_path / "logs", timeout_s=120.0)
    assert f"{tmp_path}/logs/rollout_server_" in str(error.value)
    # Without vLLM its absence, with it the option.
    assert any(word in str(error.value) for word in ("vllm", "no-such-option"))


def test_stopping_ends_the_whole_process_group(tmp_path):
    server = ServerProcess(ServerCommand(arguments=[], environment={}), log=tmp_path / "log")
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


def test_a_server_whose_run_has_ended_does_not_start():
    entry = [sys.executable, "-m", "megatron_longrlvr.rollout.serve", "1"]
    result = subprocess.run(entry, capture_output=True, text=True, timeout=60, check=False)
    assert "the run that started this server has ended" in result.stderr
    assert result.returncode == 1
