"""Write a policy that lives on many ranks as one Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch.distributed as dist

from megatron_longrlvr.model.hf_weights import export_hf_tensors
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.policy import Policy


def export_policy(policy: Policy, folder: Path, *, tokenizer_folder: Path) -> None:
    """Write weights, config and tokenizer; every rank calls this, the first one writes.

    A folder of that name is replaced.

    Args:
        policy: The policy, whole over its tensor- and pipeline-parallel ranks.
        folder: Where to write, on a file system the first rank sees.
        tokenizer_folder: Hugging Face folder whose tokenizer goes along.
    """
    groups = policy.groups
    tensors = export_hf_tensors(policy.chunks, policy.spec, tp_group=groups.tp, pp_group=groups.pp)
    if groups.rank == 0:
        if folder.exists():
            shutil.rmtree(folder)
        save_hf_folder(folder, tensors, policy.spec, tokenizer_folder=tokenizer_folder)
    else:
        for _ in tensors:
            pass
    dist.barrier(group=groups.world)
