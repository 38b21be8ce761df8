"""Samples as the tensors that NeMo-Aligner passes on.

Shapes: B samples of this rank, S tokens of the longest prompt and response.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_longrlvr.stages import FinishReason, Sample


def rollout_tensors(
    samples: Sequence[Sample], *, first_id: int, pad_id: int, device: torch.device
) -> dict[str, Tensor]:
    """What ``PPOTrainer`` expects of ``infer``, and an id for each sample.

    Returns:
        ``response_tokens`` [B, S] int64, prompt, response and padding; ``response_lengths`` [B]
        int64, the prompt included, as NeMo-Aligner counts them; ``prompt_lengths`` [B] int64;
        ``is_end`` [B] bool, whether the response came to its end; ``sample_ids`` [B] int64.
    """
    rows = [[*sample.prompt.token_ids, *sample.token_ids] for sample in samples]
    width = max(map(len, rows))
    padded = [row + [pad_id] * (width - len(row)) for row in rows]
    ended = [sample.finish_reason is FinishReason.STOP for sample in samples]
    prompt_lengths = [len(sample.prompt.token_ids) for sample in samples]
    return {
        "response_tokens": torch.tensor(padded, dtype=torch.int64, device=device),
        "response_lengths": torch.tensor(list(map(len, rows)), device=device),
        "prompt_lengths": torch.tensor(prompt_lengths, device=device),
        "is_end": torch.tensor(ended, device=device),
        "sample_ids": torch.arange(first_id, first_id + len(rows), device=device),
    }


def update_handles(num_updates: int, *, device: torch.device) -> dict[str, Tensor]:
    """What stands for a step's updates in NeMo-Aligner's split of a batch: a row for each.

    The samples themselves are packed already, a group's prompt once; as padded rows they would be
    ``group_size`` times as long.

    Args:
        num_updates: Without any there is one row, of update -1: the loop takes its rounds.
        device: Where.

    Returns:
        ``update`` [U] int64; ``response_tokens`` [U, 0], whose rows the loop counts.
    """
    update = torch.arange(num_updates) if num_updates else torch.tensor([-1])
    return {
        "update": update.to(device),
        "response_tokens": torch.zeros(len(update), 0, dtype=torch.int64, device=device),
    }
