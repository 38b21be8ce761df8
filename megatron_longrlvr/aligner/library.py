"""The one door to nemo_aligner: everything that this package uses of it.

Importing this module imports NeMo-Aligner, with names standing in for NeMo and TensorRT-LLM where
those are absent.
"""

# ruff: noqa: E402 - what NeMo-Aligner imports has to be ready first
from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist

from megatron_longrlvr.aligner.presence import check_presence, find_presence
from megatron_longrlvr.aligner.stand_ins import install_stand_ins
from megatron_longrlvr.model.cpu.install import install
from megatron_longrlvr.model.cpu.patches import replace
from megatron_longrlvr.parallel.device import has_cuda

install()
PRESENCE = find_presence()
check_presence(PRESENCE)
STAND_INS = install_stand_ins(PRESENCE)

from nemo_aligner.algorithms import ppo
from nemo_aligner.algorithms.ppo import PPOTrainer
from nemo_aligner.models.alignable_interface import AlignableGenerativeInterface
from nemo_aligner.utils import parallel_state
from nemo_aligner.utils.distributed import rebalance_nd_tensor
from nemo_aligner.utils.server_utils import FutureResult


def _patch_gathers() -> None:
    original = dist.all_gather_into_tensor

    @functools.wraps(original)
    def gather(output: torch.Tensor, given: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return original(output, given.reshape(1) if given.dim() == 0 else given, *args, **kwargs)

    replace(
        dist,
        "all_gather_into_tensor",
        gather,
        reason="NeMo-Aligner gathers a number without dimensions, which gloo refuses",
    )


def _silence_progress_bar() -> None:
    # A bar on every rank's standard error, beside the display that the run has.
    ppo.tqdm = functools.partial(ppo.tqdm, disable=True)


if not has_cuda():
    _patch_gathers()
_silence_progress_bar()

__all__ = [
    "PRESENCE",
    "STAND_INS",
    "AlignableGenerativeInterface",
    "FutureResult",
    "PPOTrainer",
    "parallel_state",
    "rebalance_nd_tensor",
]
