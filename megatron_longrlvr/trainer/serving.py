"""A rollout server as a program of its own, for nodes where no rank of the run lives."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.rollout.serve import SERVER
from megatron_longrlvr.rollout.server_process import ServerCommand, server_command
from megatron_longrlvr.rollout.vllm_library import require_vllm
from megatron_longrlvr.trainer.engines import engine_shape
from megatron_longrlvr.trainer.model_folder import model_folder


def command_for(config: TrainConfig) -> ServerCommand:
    """What a server for this recipe is started with: the same as one that the run itself starts.

    Raises:
        ConfigError: The recipe samples with another engine.
    """
    if config.rollout.engine != "vllm_server":
        raise ConfigError(
            f"rollout.engine={config.rollout.engine} uses no servers; set it to vllm_server"
        )
    spec = read_model_spec(model_folder(config.model.path))
    return server_command(engine_shape(config, spec, rank=0), config.rollout.vllm)


def serve(config: TrainConfig, *, host: str, port: int) -> NoReturn:
    """Become vLLM's server; this process is it from then on.

    Raises:
        ConfigError: vLLM is not installed, or the recipe uses no servers.
    """
    command = command_for(config)
    require_vllm("vllm_server")
    place = ("--host", host, "--port", str(port))
    os.execve(
        sys.executable,
        [sys.executable, "-m", SERVER, *place, *command.arguments],
        {**os.environ, **command.environment},
    )
