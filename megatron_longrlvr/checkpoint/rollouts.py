"""Samples that later steps are to learn from, in one safetensors file of each replica.

A run that samples ahead of its learner has some at every checkpoint. They were drawn from weights
that the checkpoint does not hold, so a resumed run cannot draw them again. Their prompts can be
drawn again, and are not stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from megatron_longrlvr.checkpoint.tensor_file import write_tensors
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    PromptBatch,
    RolloutBatch,
    Sample,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRollouts:
    """The samples of one step, without their prompts."""

    step: int
    group_size: int
    described: Sequence[dict[str, Any]]
    token_ids: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]

    def of(self, prompts: PromptBatch) -> RolloutBatch:
        """The samples as responses to their prompts, drawn again.

        Raises:
            CheckpointError: They are responses to others.
        """
        asked = [prompt for prompt in prompts.prompts for _ in range(self.group_size)]
        samples = []
        for prompt, described, token_ids, logprobs in zip(
            asked, self.described, self.token_ids, self.logprobs, strict=True
        ):
            if prompt.prompt_id != described["prompt_id"]:
                raise CheckpointError(
                    f"a saved sample of step {self.step} answers prompt {described['prompt_id']} "
                    f"where the data now have {prompt.prompt_id}; the training data have changed"
                )
            samples.append(
                Sample(
                    prompt=prompt,
                    sample_index=described["sample_index"],
                    token_ids=tuple(token_ids),
                    text=described["text"],
                    behavior_logprobs=tuple(logprobs),
                    finish_reason=FinishReason(described["finish_reason"]),
                    policy_version=PolicyVersion(described["policy_version"]),
                    later_versions=tuple(map(PolicyVersion, described["later_versions"])),
                )
            )
        return RolloutBatch(step=self.step, group_size=self.group_size, samples=samples)


def rollouts_path(directory: Path, replica: int) -> Path:
    """File of one data-parallel replica."""
    return directory / "rollouts" / f"replica_{replica:05d}.safetensors"


def save_rollouts(directory: Path, replica: int, batches: Sequence[RolloutBatch]) -> None:
    """Write the samples of one replica, step by step.

    Raises:
        CheckpointError: The file cannot be written.
    """
    samples = [sample for batch in batches for sample in batch.samples]
    steps = [
        {
            "step": batch.step,
            "group_size": batch.group_size,
            "samples": [_describe(sample) for sample in batch.samples],
        }
        for batch in batches
    ]
    text = numpy.frombuffer(json.dumps(steps).encode(), dtype=numpy.uint8).copy()
    tensors = {
        "described": torch.from_numpy(text),
        "token_ids": torch.tensor([token for one in samples for token in one.token_ids]),
        "logprobs": torch.tensor(
            [value for one in samples for value in one.behavior_logprobs], dtype=torch.float64
        ),
    }
    write_tensors(rollouts_path(directory, replica), tensors)


def _describe(sample: Sample) -> dict[str, Any]:
    return {
        "prompt_id": sample.prompt.prompt_id,
        "sample_index": sample.sample_index,
        "text": sample.text,
        "finish_reason": sample.finish_reason.value,
        "policy_version": sample.policy_version,
        "later_versions": list(sample.later_versions),
        "num_tokens": len(sample.token_ids),
    }


def load_rollouts(directory: Path, replica: int) -> Sequence[StoredRollouts]:
    """What :func:`save_rollouts` wrote; nothing where nothing was saved.

    Raises:
        CheckpointError: The file cannot be read.
    """
    path = rollouts_path(directory, replica)
    if not path.exists():
        return ()
    try:
        tensors = load_file(path)
        steps = json.loads(tensors["described"].numpy().tobytes())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold samples: {error}") from error
    lengths = [one["num_tokens"] for step in steps for one in step["samples"]]
    token_ids = iter(tensors["token_ids"].split(lengths))
    logprobs = iter(tensors["logprobs"].split(lengths))
    return [
        StoredRollouts(
            step=step["step"],
            group_size=step["group_size"],
            described=step["samples"],
            token_ids=[next(token_ids).tolist() for _ in step["samples"]],
            logprobs=[next(logprobs).tolist() for _ in step["samples"]],
        )
        for step in steps
    ]
