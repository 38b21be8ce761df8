"""Writing torch_dist checkpoints chunk by chunk.

torch.distributed.checkpoint's own writer wants all tensors of a rank in memory, or keeps the last
of each key; this one holds the chunk it writes. The files are the same: per rank a row of
``torch.save`` archives, and one pickled index of them.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.serialization import skip_data

from megatron_longrlvr.conversion.pieces import CheckpointPlan, Chunk
from megatron_longrlvr.conversion.source_files import PutValues, write_all
from megatron_longrlvr.errors import CheckpointError

INDEX_FILE = ".metadata"

# What megatron-core's dist_checkpointing writes beside the index.
_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredChunk:
    """Where a chunk was written."""

    chunk: Chunk
    file: str
    offset: int
    length: int
    """Bytes of the whole archive, more than those of its values."""


class ChunkWriter:
    """The data file of one rank. A context manager; leaving it makes the file durable."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.path = directory / f"__{rank}_0.distcp"
        self._stored: list[StoredChunk] = []
        self._file = self.path.open("wb", buffering=0)

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    @property
    def stored(self) -> tuple[StoredChunk, ...]:
        return tuple(self._stored)

    def write(self, chunk: Chunk, dtype: torch.dtype, put_values: PutValues) -> None:
        """Append a chunk.

        Args:
            chunk: Which.
            dtype: Of its values.
            put_values: Called once with an open file and the byte where the values belong.

        Raises:
            OSError: The disk is full, among others.
        """
        offset = self._file.tell()
        _save(chunk.sizes, dtype, self._file, put_values)
        self._stored.append(
            StoredChunk(
                chunk=chunk,
                file=self.path.name,
                offset=offset,
                length=self._file.tell() - offset,
            )
        )


def write_index(directory: Path, plan: CheckpointPlan, stored: Iterable[StoredChunk]) -> None:
    """Write the files that make the data files of all ranks a checkpoint; one rank does."""
    chunks: dict[str, list[ChunkStorageMetadata]] = {key: [] for key in plan.shape_by_key}
    places: dict[MetadataIndex, _StorageInfo] = {}
    for one in stored:
        offsets = torch.Size(one.chunk.offsets)
        chunks[one.chunk.key].append(
            ChunkStorageMetadata(offsets=offsets, sizes=torch.Size(one.chunk.sizes))
        )
        place = _StorageInfo(relative_path=one.file, offset=one.offset, length=one.length)
        places[MetadataIndex(one.chunk.key, offsets)] = place
    metadata = Metadata(
        state_dict_metadata={
            key: TensorStorageMetadata(
                properties=TensorProperties(dtype=plan.dtype_by_key[key]),
                size=torch.Size(shape),
                chunks=chunks[key],
            )
            for key, shape in plan.shape_by_key.items()
        },
        storage_data=places,
    )
    metadata.version = CURRENT_DCP_VERSION
    with (directory / INDEX_FILE).open("wb") as file:
        pickle.dump(metadata, file)
        file.flush()
        os.fsync(file.fileno())
    torch.save({}, directory / "common.pt")
    (directory / "metadata.json").write_text(json.dumps(_FORMAT), encoding="utf-8")


def _save(sizes: tuple[int, ...], dtype: torch.dtype, file: FileIO, put_values: PutValues) -> None:
    # torch.save alone would copy all values into a bytes object and compute a checksum that
    # torch.load does not read: a third of the speed.
    described = torch.empty(sizes, dtype=dtype)  # never touched, so it takes no memory
    target = _ValuesInPlace(file, described.nbytes, put_values)
    try:
        with skip_data():
            torch.save(described, target)  # type: ignore[arg-type] # what it needs
    except RuntimeError as error:
        # torch complains of the archive that was cut short.
        if isinstance(error.__context__, OSError | CheckpointError):
            raise error.__context__ from None
        raise


class _ValuesInPlace:
    """What torch.save writes to under ``skip_data``: where it skips the values, they are put."""

    def __init__(self, file: FileIO, nbytes: int, put_values: PutValues) -> None:
        self._file = file
        self._nbytes = nbytes
        self._put_values = put_values

    def write(self, data: bytes) -> int:
        at = self._file.tell()
        write_all(self._file.fileno(), memoryview(data), at)
        self._file.seek(at + len(data))
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def seek(self, distance: int, whence: int) -> None:
        skipped = (distance, whence)
        assert skipped == (self._nbytes, os.SEEK_CUR), f"torch.save skips {skipped}"
        at = self._file.tell()
        self._put_values(self._file.fileno(), at)
        self._file.seek(at + distance)
