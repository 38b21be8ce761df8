"""Process groups of one rank, started once from a layout and passed on.

megatron-core keeps its groups in module globals; they are set up and torn down here, and read
here only. On a machine without CUDA the CPU patches go in first.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed import ProcessGroup

from megatron_longrlvr.model.cpu.install import install
from megatron_longrlvr.parallel.device import backend_name, device, has_cuda, select_local_device
from megatron_longrlvr.parallel.layout import ParallelLayout

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

# Long enough for the slowest rank to load a checkpoint or finish its samples.
_DEFAULT_TIMEOUT_S = 1800.0

# Megatron-LM's _set_random_seed: pipeline stages draw different weights.
_SEED_STRIDE_PP = 100

_worlds_started_here: list[ProcessGroup] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessGroups:
    """The groups this rank belongs to and its place in them."""

    layout: ParallelLayout
    rank: int
    tp_rank: int
    cp_rank: int
    dp_rank: int
    pp_rank: int
    ep_rank: int
    world: ProcessGroup
    """All ranks."""

    tp: ProcessGroup
    cp: ProcessGroup
    dp: ProcessGroup
    pp: ProcessGroup
    ep: ProcessGroup
    """Ranks that share out the experts; tokens travel within it."""

    dp_cp: ProcessGroup
    """Ranks that hold the same weights: gradients are summed over it."""

    tp_cp: ProcessGroup
    tp_pp: ProcessGroup
    """Ranks that hold one copy of the model between them (megatron-core's ``mp``)."""

    megatron: ProcessGroupCollection
    """The same and more under megatron-core's names, for its constructors."""

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the output layer."""
        return self.pp_rank == self.layout.pp - 1


def launched_world_size() -> int:
    """Number of ranks that torchrun or srun announced; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_process_groups(
    layout: ParallelLayout, *, seed: int, timeout_s: float = _DEFAULT_TIMEOUT_S
) -> ProcessGroups:
    """Start torch.distributed where needed, megatron-core's groups and its random states.

    Collective: every rank of the run calls it with the same arguments.

    Args:
        layout: Must be made for the number of ranks that are running.
        seed: Of the run; ranks derive theirs from it. Ranks that hold the same weights draw the
            same numbers.
        timeout_s: After this long in a collective a rank gives up on the others.

    Raises:
        RuntimeError: Groups are already started, or the layout is for another number of ranks.
    """
    _refuse_second_start()
    select_local_device()
    _start_world(timedelta(seconds=timeout_s))
    if dist.get_world_size() != layout.world_size:
        raise RuntimeError(
            f"the layout is for {layout.world_size} ranks and {dist.get_world_size()} are running; "
            "start as many with torchrun or srun"
        )
    # The distributed optimizer gathers its states over gloo, whatever the device.
    _start_subgroups(layout, timeout_s=timeout_s, has_gloo=True)
    _seed_generators(layout, seed)
    return _collect(layout)


def start_planned_groups(layout: ParallelLayout, *, rank: int) -> ProcessGroups:
    """The groups that one rank of a run would have, in this process alone.

    Collectives on them return at once and move nothing; they are for building models as shapes.

    Raises:
        RuntimeError: Groups are already started.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    _refuse_second_start()
    if dist.is_initialized():
        raise RuntimeError("torch.distributed is running; plan ranks in a process of their own")
    dist.init_process_group("fake", rank=rank, world_size=layout.world_size, store=FakeStore())
    _worlds_started_here.append(_world())
    _start_subgroups(layout, timeout_s=_DEFAULT_TIMEOUT_S, has_gloo=False)
    _seed_generators(layout, seed=0)
    return _collect(layout)


def close_process_groups() -> None:
    """End what `start_process_groups` started; does nothing when nothing is started.

    Collective. A torch.distributed world that somebody else started stays up.
    """
    install()
    from megatron.core import parallel_state

    _destroy_subgroups()
    parallel_state.destroy_model_parallel()
    if _worlds_started_here:
        _worlds_started_here.clear()
        dist.destroy_process_group()


def _refuse_second_start() -> None:
    install()
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        raise RuntimeError("process groups are already started; call close_process_groups() first")


def _start_subgroups(layout: ParallelLayout, *, timeout_s: float, has_gloo: bool) -> None:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        distributed_timeout_minutes=timeout_s / 60,
        create_gloo_process_groups=has_gloo,
    )


def _start_world(timeout: timedelta) -> None:
    if dist.is_initialized():
        return
    device_id = device() if has_cuda() else None
    if "RANK" in os.environ:
        dist.init_process_group(backend_name(), timeout=timeout, device_id=device_id)
    else:
        # A plain `python` process: a world of one that needs no port.
        dist.init_process_group(
            backend_name(),
            timeout=timeout,
            device_id=device_id,
            store=HashStore(),
            rank=0,
            world_size=1,
        )
    _worlds_started_here.append(_world())


def _destroy_subgroups() -> None:
    # megatron-core only forgets most of its groups; their sockets and threads would pile up.
    if not dist.is_initialized():
        return
    world = _world()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not world:
            dist.destroy_process_group(group)


def _seed_generators(layout: ParallelLayout, seed: int) -> None:
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    stage = layout.coordinates(dist.get_rank()).pp
    stage_seed = seed + _SEED_STRIDE_PP * stage
    random.seed(stage_seed)
    numpy.random.seed(stage_seed)
    torch.manual_seed(stage_seed)
    model_parallel_cuda_manual_seed(stage_seed)


def _collect(layout: ParallelLayout) -> ProcessGroups:
    from megatron.core.process_groups_config import ProcessGroupCollection

    rank = dist.get_rank()
    place = layout.coordinates(rank)
    megatron = ProcessGroupCollection.use_mpu_process_groups()
    return ProcessGroups(
        layout=layout,
        rank=rank,
        tp_rank=place.tp,
        cp_rank=place.cp,
        dp_rank=place.dp,
        pp_rank=place.pp,
        ep_rank=place.ep,
        world=_world(),
        tp=megatron.tp,
        cp=megatron.cp,
        dp=megatron.dp,
        pp=megatron.pp,
        ep=megatron.ep,
        dp_cp=megatron.dp_cp,
        tp_cp=megatron.tp_cp,
        tp_pp=megatron.mp,
        megatron=megatron,
    )


def _world() -> ProcessGroup:
    world = dist.group.WORLD
    assert world is not None, "torch.distributed is started before its world is asked for"
    return world
