"""The command line of a rollout server: it samples as the run expects it."""

from megatron_longrlvr.config.vllm import VllmConfig
from megatron_longrlvr.rollout.server_process import server_command
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
