"""Marks of tensors that learner and engine compare after an update.

A mark is the checksum of some columns of the part of a tensor that a rank of the engine holds. The
learner takes it while it hands the tensor over, the engine from what it computes with afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from megatron_longrlvr.refit.checksum import checksum, sample_columns

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


class HeldPart(Protocol):
    """The part of a Hugging Face tensor that a rank of the engine holds."""

    @property
    def hf_name(self) -> str: ...

    @property
    def rows(self) -> slice:
        """Of the whole tensor."""
        ...

    @property
    def columns(self) -> slice | None:
        """Of the whole tensor; None where it has one dim."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the engine's weights."""
        ...


class ReadablePart(HeldPart, Protocol):
    """A part that can be read where the engine holds it."""

    def read(self, columns: Sequence[int]) -> Tensor:
        """These columns of the whole tensor; all of it where it has one dim."""
        ...


def held_names(hf_name: str, *, is_tied: bool) -> Sequence[str]:
    """Names under which an engine holds a tensor: tied, the embedding is the output layer too."""
    if hf_name == _EMBEDDING and is_tied:
        return (_EMBEDDING, _OUTPUT)
    return (hf_name,)


def marked_columns(part: HeldPart, *, count: int | None, version: int) -> list[int]:
    """Columns of the whole tensor to compare; empty where it has one dim.

    Args:
        part: What the engine holds.
        count: How many to take; None for all of them.
        version: Policy version.
    """
    if part.columns is None:
        return []
    width = part.columns.stop - part.columns.start
    chosen = sample_columns(part.hf_name, width, count=count, version=version)
    return [part.columns.start + column for column in chosen]


def mark(tensor: Tensor, part: HeldPart, columns: Sequence[int]) -> int:
    """Mark of a whole tensor's columns, as the engine should hold them."""
    own = tensor[part.rows]
    if part.columns is not None:
        own = own[:, list(columns)]
    return checksum(own.to(part.dtype))


def read_mark(part: ReadablePart, columns: Sequence[int]) -> int:
    """Mark of the columns that the engine holds."""
    return checksum(part.read(columns).to(part.dtype))


def explain_difference(differing: Sequence[str], *, total: int, version: int) -> str:
    """What is wrong with an engine that holds other numbers than were sent.

    Args:
        differing: Names of the tensors that differ.
        total: Tensors compared.
        version: Policy version that was sent.
    """
    if differing == [_OUTPUT]:
        return (
            f"the engine computes with a stale output layer after the update to version {version}: "
            f"{_OUTPUT} differs from what was sent and every other of {total} tensors agrees"
        )
    shown = ", ".join(differing[:4]) + (", ..." if len(differing) > 4 else "")
    if len(differing) == total:
        return (
            f"the engine computes with other weights than version {version}: "
            f"all {total} tensors differ from what was sent"
        )
    return (
        f"the engine does not hold version {version}: {len(differing)} of {total} tensors differ "
        f"from what was sent ({shown})"
    )
