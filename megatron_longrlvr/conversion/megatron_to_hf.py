"""A torch_dist checkpoint becomes a Hugging Face folder, some rows of a tensor at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from megatron_longrlvr.conversion.folder import (
    CONFIG_FILE,
    copy_descriptions,
    description_files,
    new_folder,
)
from megatron_longrlvr.conversion.progress import Advance, ignore_progress
from megatron_longrlvr.conversion.ranks import Ranks
from megatron_longrlvr.conversion.reused_memory import ReusedMemory
from megatron_longrlvr.conversion.row_blocks import BLOCK_BYTES, row_blocks
from megatron_longrlvr.conversion.safetensors_writer import (
    FilePlan,
    TensorPlace,
    create_file,
    plan_file,
    put_values,
)
from megatron_longrlvr.conversion.source import CheckpointSource
from megatron_longrlvr.conversion.source_files import COPY_BYTES, PutValues, SourceFiles
from megatron_longrlvr.conversion.tensors import CheckpointTensors
from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import INDEX_FILE, SINGLE_FILE
from megatron_longrlvr.model.spec import ModelSpec

_BYTES_PER_GB = 1000**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A conversion that was checked and can be run or shown."""

    source: CheckpointSource
    spec: ModelSpec
    files: tuple[FilePlan, ...]
    shape_by_name: Mapping[str, tuple[int, ...]]
    dtype_by_name: Mapping[str, torch.dtype]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def peak_bytes(self) -> int:
        """Memory for values that a rank holds at once: some rows, and what is being copied."""
        return BLOCK_BYTES + COPY_BYTES

    @property
    def copied_files(self) -> tuple[str, ...]:
        return tuple(path.name for path in description_files(self.source.description))


def plan_export(source: CheckpointSource, *, max_shard_gb: float = 5.0) -> Export:
    """Check a checkpoint and plan its conversion; reads no values.

    Raises:
        CheckpointError: The tensors are not those of the model, or a file is missing or
            truncated; names it.
    """
    tensors = CheckpointTensors(TorchDistReader(source.weights), source.spec)
    tensors.check()
    shapes = tensors.shapes()
    dtypes = {name: tensors.dtype(name) for name in shapes}
    return Export(
        source=source,
        spec=source.spec,
        files=_plan_files(shapes, dtypes, int(max_shard_gb * _BYTES_PER_GB)),
        shape_by_name=shapes,
        dtype_by_name=dtypes,
    )


def run_export(
    work: Export,
    target: Path,
    *,
    ranks: Ranks,
    overwrite: bool = False,
    advance: Advance = ignore_progress,
) -> None:
    """Write ``target``, which transformers and vLLM load. Every rank calls this.

    Args:
        work: The same on every rank.
        target: Folder to make; it exists when it is whole.
        ranks: Who shares the work.
        overwrite: Replace a checkpoint or model folder of that name.
        advance: Told the bytes this rank has written.

    Raises:
        CheckpointError: ``target`` exists, or some rank could not read or write; names tensor and
            file.
    """
    if target.resolve() in (work.source.folder.resolve(), work.source.description.resolve()):
        raise CheckpointError(f"{target} is the source; choose another folder")
    with new_folder(target, ranks=ranks, overwrite=overwrite, needed_bytes=work.nbytes) as folder:
        ranks.on_first_rank(lambda: _create_files(folder, work.files))
        mine = _share_of_rank(work, ranks)
        ranks.on_every_rank(lambda: _write_tensors(work, mine, folder, advance))
        ranks.on_first_rank(lambda: _describe(work, folder))


def _plan_files(
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
    max_shard_bytes: int,
) -> tuple[FilePlan, ...]:
    shards: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = [{}]
    num_bytes = 0
    for name, shape in shapes.items():
        nbytes = torch.Size(shape).numel() * dtypes[name].itemsize
        if shards[-1] and num_bytes + nbytes > max_shard_bytes:
            shards.append({})
            num_bytes = 0
        shards[-1][name] = (shape, dtypes[name])
        num_bytes += nbytes
    if len(shards) == 1:
        return (plan_file(SINGLE_FILE, shards[0]),)
    return tuple(
        plan_file(f"model-{number:05d}-of-{len(shards):05d}.safetensors", shard)
        for number, shard in enumerate(shards, start=1)
    )


def _create_files(folder: Path, files: tuple[FilePlan, ...]) -> None:
    for file in files:
        create_file(folder, file)


def _share_of_rank(work: Export, ranks: Ranks) -> dict[str, TensorPlace]:
    """A contiguous run of the tensors for each rank, of about equal bytes."""
    mine, start = {}, 0
    for file in work.files:
        for name, place in file.places.items():
            if start * ranks.size // work.nbytes == ranks.rank:
                mine[name] = place
            start += place.nbytes
    return mine


def _write_tensors(
    work: Export, places: Mapping[str, TensorPlace], folder: Path, advance: Advance
) -> None:
    tensors = CheckpointTensors(TorchDistReader(work.source.weights), work.spec)
    memory = ReusedMemory()
    with SourceFiles() as files, ExitStack() as open_files:
        descriptors: dict[str, int] = {}
        for name, place in places.items():
            if place.file not in descriptors:
                file = open_files.enter_context((folder / place.file).open("r+b", buffering=0))
                descriptors[place.file] = file.fileno()
            at = place.start
            try:
                for nbytes, put in _parts(tensors, name, files, memory):
                    put(descriptors[place.file], at)
                    at += nbytes
                    advance(nbytes)
            except OSError as error:
                raise CheckpointError(
                    f"cannot write tensor {name} to {folder / place.file}: {error}"
                ) from error
        for descriptor in descriptors.values():
            os.fsync(descriptor)


def _parts(
    tensors: CheckpointTensors, name: str, files: SourceFiles, memory: ReusedMemory
) -> Iterator[tuple[int, PutValues]]:
    """Consecutive parts of a tensor: the bytes of each, and what writes its values."""
    extents = tensors.extents(name)
    if extents is not None:
        for part in extents:
            yield part.nbytes, partial(files.copy, part)
        return
    shape, dtype = tensors.shapes()[name], tensors.dtype(name)
    for start, stop in row_blocks(shape, dtype):
        own = memory.take((stop - start, *shape[1:]), dtype)
        values = tensors.read(name, start, stop, out=own)
        yield values.nbytes, partial(put_values, values)


def _describe(work: Export, folder: Path) -> None:
    copy_descriptions(work.source.description, folder)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    # transformers 4 and 5 call it differently; the folder is to be read by both.
    dtype = str(next(iter(work.dtype_by_name.values()))).removeprefix("torch.")
    config["torch_dtype"] = dtype
    if "dtype" in config:
        config["dtype"] = dtype
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if len(work.files) > 1:
        index = {
            "metadata": {
                "total_size": sum(
                    place.nbytes for file in work.files for place in file.places.values()
                )
            },
            "weight_map": {name: file.name for file in work.files for name in file.places},
        }
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
