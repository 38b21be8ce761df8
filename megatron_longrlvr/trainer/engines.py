"""From a recipe to the engine that samples for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.config.training import RolloutConfig
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.collectives import gather_objects
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.refit.server_publisher import ServerPublisher
from megatron_longrlvr.refit.settings import RefitSettings
from megatron_longrlvr.rollout.engine import OwnEngine
from megatron_longrlvr.rollout.megatron_engine import MegatronEngine
from megatron_longrlvr.rollout.server_pool import ServerPool
from megatron_longrlvr.rollout.server_process import ServerProcess, server_command, start_servers
from megatron_longrlvr.rollout.vllm_library import EngineShape, require_vllm, start_llm
from megatron_longrlvr.rollout.vllm_server import VllmServerEngine
from megatron_longrlvr.trainer.model_folder import model_folder


def build_engine(config: TrainConfig, policy: Policy, tokenizer: Tokenizer) -> OwnEngine:
    """The engine that ``rollout.engine`` names; without weights until it is published to.

    Raises:
        ConfigError: A stop string is not one token, the tokenizer knows tokens that the model does
            not, or the engine is not installed.
        RuntimeError: A server did not start.
    """
    if tokenizer.vocab_size > policy.spec.vocab_size:
        raise ConfigError(
            f"model.path={config.model.path}: the tokenizer knows {tokenizer.vocab_size} tokens "
            f"and the model {policy.spec.vocab_size}; take the added tokens out of tokenizer.json, "
            "or give the embedding rows for them"
        )
    stop_ids = _stop_ids(config.rollout, tokenizer)
    build = _BUILDERS[config.rollout.engine]
    return build(config, policy, tokenizer, stop_ids)


def _stop_ids(rollout: RolloutConfig, tokenizer: Tokenizer) -> frozenset[int]:
    stop_ids = set(tokenizer.stop_ids)
    for text in rollout.stop:
        token_ids = tokenizer.encode(text)
        if len(token_ids) != 1:
            raise ConfigError(f"rollout.stop: {text!r} is {len(token_ids)} tokens, must be one")
        stop_ids.update(token_ids)
    return frozenset(stop_ids)


def _build_megatron(
    config: TrainConfig, policy: Policy, tokenizer: Tokenizer, stop_ids: frozenset[int]
) -> OwnEngine:
    return MegatronEngine(
        policy,
        tokenizer,
        max_concurrent_samples=config.rollout.max_concurrent_samples,
        stop_ids=stop_ids,
    )


def _build_colocated(
    config: TrainConfig, policy: Policy, tokenizer: Tokenizer, stop_ids: frozenset[int]
) -> OwnEngine:
    vllm = config.rollout.vllm
    llm = start_llm(engine_shape(config, policy.spec, rank=policy.groups.rank), vllm)
    # Imports vLLM, which is known to be there by now.
    from megatron_longrlvr.refit.publisher import ProcessPublisher
    from megatron_longrlvr.rollout.vllm_colocated import VllmColocatedEngine

    return VllmColocatedEngine(
        llm,
        ProcessPublisher(policy, llm, _refit_settings(config)),
        tokenizer,
        policy.groups,
        stop_ids=stop_ids,
        tensor_parallel=vllm.tensor_parallel,
        sleep_level=vllm.sleep_level,
    )


def _build_server(
    config: TrainConfig, policy: Policy, tokenizer: Tokenizer, stop_ids: frozenset[int]
) -> OwnEngine:
    server, groups = config.rollout.server, policy.groups
    processes: list[ServerProcess] = []
    urls: Sequence[str] = server.urls
    if not urls:
        urls, processes = _start_servers(config, policy)
    background = BackgroundLoop("rollout")
    # Every replica asks for its own samples.
    share = max(config.rollout.max_concurrent_samples // groups.layout.dp, 1)
    pool = ServerPool(urls, server, max_concurrent=share)
    publisher = ServerPublisher(policy, pool, background, _refit_settings(config), server)
    return VllmServerEngine(
        pool,
        publisher,
        background,
        tokenizer,
        groups,
        stop_ids=stop_ids,
        processes=processes,
    )


def _start_servers(
    config: TrainConfig, policy: Policy
) -> tuple[Sequence[str], list[ServerProcess]]:
    """Start servers beside the first rank; every rank learns where, or why not."""
    groups, server = policy.groups, config.rollout.server
    _check_one_node(groups)
    processes: list[ServerProcess] = []
    problem: Exception | None = None
    if groups.rank == 0:
        try:
            require_vllm("vllm_server")
            processes = start_servers(
                server_command(
                    engine_shape(config, policy.spec, rank=policy.groups.rank), config.rollout.vllm
                ),
                count=server.num_servers,
                logs=Path(config.run.dir) / "logs",
                timeout_s=server.start_timeout_s,
            )
        except (ConfigError, RuntimeError) as failure:
            problem = failure
    # Ranks that went on without the first one would wait for it forever.
    found = gather_objects(([process.url for process in processes], problem), groups.world)
    urls, problem = found[0]
    if problem is not None:
        raise problem
    return urls, processes


def _check_one_node(groups: ProcessGroups) -> None:
    nodes = set(gather_objects(socket.gethostname(), groups.world))
    if len(nodes) > 1:
        raise ConfigError(
            f"rollout.engine=vllm_server starts servers that only their own node can reach, and "
            f"the ranks are on {len(nodes)}; `launch submit --server-nodes N` starts them on nodes "
            "of their own, or start them with `longrlvr serve` and give rollout.server.urls"
        )


def engine_shape(config: TrainConfig, spec: ModelSpec, *, rank: int) -> EngineShape:
    """What an engine for this recipe's model is built for."""
    rollout = config.rollout
    longest = config.data.max_prompt_tokens + rollout.max_response_tokens
    return EngineShape(
        model_folder=model_folder(config.model.path),
        dtype=config.model.dtype,
        head_dim=spec.head_dim,
        max_model_len=rollout.vllm.max_model_len or longest,
        max_concurrent_samples=rollout.max_concurrent_samples,
        rank=rank,
        returns_experts=rollout.routing_replay,
    )


def _refit_settings(config: TrainConfig) -> RefitSettings:
    vllm = config.rollout.vllm
    return RefitSettings(
        bucket_bytes=vllm.bucket_mib * 2**20,
        verify_every=vllm.verify_every,
        verify_columns=vllm.verify_columns,
    )


_Builder = Callable[[TrainConfig, Policy, Tokenizer, frozenset[int]], OwnEngine]

_BUILDERS: dict[str, _Builder] = {
    "megatron": _build_megatron,
    "vllm_colocated": _build_colocated,
    "vllm_server": _build_server,
}
