"""Batches of equally long runs of tokens, taken out of a packed row and added back to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRuns:
    """Runs of tokens as rows of a batch; shorter ones are padded at their end.

    Shapes: L tokens of the packed row, B runs, W tokens of the longest run.
    """

    index: Tensor
    """[B, W] int64 into the row; padding points to token 0 and stands for nothing."""

    is_padding: Tensor | None
    """[B, W] bool; None where all runs have one length."""

    span: tuple[int, int] | None
    """The runs are these tokens in their order, so that no copy is needed; None otherwise."""

    @property
    def num_runs(self) -> int:
        return self.index.size(0)

    @property
    def width(self) -> int:
        return self.index.size(1)

    def take(self, values: Tensor) -> Tensor:
        """[B, W, ...] of [L, ...] values; where padding stands, those of token 0."""
        if self.span is None:
            return values[self.index]
        start, end = self.span
        return values[start:end].view(*self.index.shape, *values.shape[1:])

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add [B, W, ...] values to their tokens of a [L, ...] total, in place.

        No token may stand in two runs.
        """
        if self.span is not None:
            start, end = self.span
            total[start:end] += values.flatten(0, 1)
            return
        tokens, values = self.real(values)
        total[tokens] += values

    def real(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N] of the row, and their [N, ...] out of [B, W, ...] values."""
        tokens, values = self.index.flatten(), values.flatten(0, 1)
        if self.is_padding is None:
            return tokens, values
        is_real = ~self.is_padding.flatten()
        return tokens[is_real], values[is_real]


def token_runs(runs: Sequence[Tensor], *, device: torch.device) -> TokenRuns:
    """Batch [W_b] int64 runs of tokens."""
    width = max(len(run) for run in runs)
    index = torch.zeros(len(runs), width, dtype=torch.int64)
    is_padding = torch.ones(len(runs), width, dtype=torch.bool)
    for row, run in enumerate(runs):
        index[row, : len(run)] = run
        is_padding[row, : len(run)] = False
    if bool(is_padding.any()):
        return TokenRuns(index=index.to(device), is_padding=is_padding.to(device), span=None)
    flat = index.flatten()
    first = int(flat[0])
    is_one_span = bool((flat == torch.arange(first, first + len(flat))).all())
    span = (first, first + len(flat)) if is_one_span else None
    return TokenRuns(index=index.to(device), is_padding=None, span=span)
