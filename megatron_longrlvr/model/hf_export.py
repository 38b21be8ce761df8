"""The policy as Hugging Face tensors: streamed out of all its ranks, or written as one folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.model.hf_weights import DEFAULT_BUCKET_BYTES, export_hf_tensors
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.policy import Policy


def export_hf(
    policy: Policy, *, bucket_bytes: int = DEFAULT_BUCKET_BYTES
) -> Iterator[tuple[str, Tensor]]:
    """Stream the policy's weights by Hugging Face name, in forward order, on every rank.

    A collective over the ranks that share the model: each of them must exhaust the iterator.

    Args:
        policy: Whole over its tensor-, expert- and pipeline-parallel ranks.
        bucket_bytes: Weights gathered at a time. A rank's memory grows by this much, or by the
            largest parameter if that is more, and by the tensor that is yielded.

    Yields:
        Name and full tensor, on the policy's device and in its dtype, owning its memory.
    """
    groups = policy.groups
    yield from export_hf_tensors(
        policy.chunks,
        policy.spec,
        tp_group=groups.tp,
        pp_group=groups.pp,
        ep_group=groups.ep,
        bucket_bytes=bucket_bytes,
    )


def export_policy(policy: Policy, folder: Path, *, tokenizer_folder: Path) -> None:
    """Write weights, config and tokenizer; every rank calls this, the first one writes.

    A folder of that name is replaced.

    Args:
        policy: The policy, whole over the ranks that share it.
        folder: Where to write, on a file system the first rank sees.
        tokenizer_folder: Hugging Face folder whose tokenizer goes along.
    """
    groups = policy.groups
    tensors = export_hf(policy)
    if groups.rank == 0:
        if folder.exists():
            shutil.rmtree(folder)
        save_hf_folder(folder, tensors, policy.spec, tokenizer_folder=tokenizer_folder)
    else:
        for _ in tensors:
            pass
    dist.barrier(group=groups.world)
