"""Comparing the tensors of two folders, in whatever formats they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from megatron_longrlvr.conversion.progress import Advance, ignore_progress
from megatron_longrlvr.conversion.row_blocks import row_blocks
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.conversion.tensors import CheckpointTensors, HfTensors, TensorFolder
from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.model.hf_reader import INDEX_FILE, SINGLE_FILE, HfReader


class Verdict(StrEnum):
    """What a comparison of one tensor found."""

    EQUAL = "equal"
    """Bit for bit, in the same dtype."""

    DIFFERENT = "different"
    MISSING = "missing"
    """In the first folder alone."""

    EXTRA = "extra"
    """In the second folder alone."""

    SHAPE = "other shape"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorComparison:
    """One tensor of either folder."""

    name: str
    verdict: Verdict
    detail: str = ""
    """Shapes or dtypes where they differ."""

    max_abs_diff: float = 0.0
    """Largest difference of values; infinite where one has NaN and the other has not."""


@contextmanager
def open_tensors(folder: Path, *, model: Path | None = None) -> Iterator[TensorFolder]:
    """Open a Hugging Face folder, a converted checkpoint or a checkpoint of a run.

    Args:
        folder: What :func:`find_source` takes, or a folder with safetensors.
        model: As for :func:`find_source`.
    """
    if is_hf_folder(folder):
        with HfReader(folder) as reader:
            yield HfTensors(reader)
        return
    source = find_source(folder, model=model)
    tensors = CheckpointTensors(TorchDistReader(source.weights), source.spec)
    tensors.check()
    yield tensors


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder holds safetensors."""
    return (folder / INDEX_FILE).exists() or (folder / SINGLE_FILE).exists()


def compare_tensors(
    first: TensorFolder, second: TensorFolder, *, advance: Advance = ignore_progress
) -> Iterator[TensorComparison]:
    """Compare every tensor, rows at a time.

    Args:
        first: What is expected.
        second: What was made of it.
        advance: Told the bytes of ``first`` that were compared.
    """
    expected, found = first.shapes(), second.shapes()
    for name, shape in expected.items():
        if name not in found:
            yield TensorComparison(name=name, verdict=Verdict.MISSING)
        elif found[name] != shape:
            yield TensorComparison(
                name=name, verdict=Verdict.SHAPE, detail=f"{shape} and {found[name]}"
            )
        else:
            yield _compare(first, second, name, shape, advance)
    for name in found.keys() - expected.keys():
        yield TensorComparison(name=name, verdict=Verdict.EXTRA)


def _compare(
    first: TensorFolder,
    second: TensorFolder,
    name: str,
    shape: tuple[int, ...],
    advance: Advance,
) -> TensorComparison:
    dtypes = (first.dtype(name), second.dtype(name))
    largest, is_equal = 0.0, dtypes[0] == dtypes[1]
    for start, stop in row_blocks(shape, dtypes[0]):
        ours, theirs = (folder.read(name, start, stop) for folder in (first, second))
        advance(ours.nbytes)
        if ours.dtype == theirs.dtype and torch.equal(ours, theirs):
            continue
        # float64 holds every value of the narrower dtypes.
        difference = (ours.double() - theirs.double()).abs().max()
        one_is_nan = not torch.equal(ours.isnan(), theirs.isnan())
        largest = max(largest, float("inf") if one_is_nan else float(difference.nan_to_num()))
        is_equal = False
    detail = "" if dtypes[0] == dtypes[1] else f"{dtypes[0]} and {dtypes[1]}"
    return TensorComparison(
        name=name,
        verdict=Verdict.EQUAL if is_equal else Verdict.DIFFERENT,
        detail=detail,
        max_abs_diff=largest,
    )
