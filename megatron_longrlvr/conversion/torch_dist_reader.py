"""Reading torch_dist checkpoints of any layout, any part of any tensor.

What lies in one piece can be copied from where it is. The rest is read through mapped files: it
comes from the page cache, and no memory of this process holds it unless it has to be put together
from several chunks.

The index is a pickle; only the classes that torch writes into it are let in.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import struct
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.conversion.source_files import FileRange, SourceFiles
from megatron_longrlvr.conversion.torch_dist_writer import INDEX_FILE
from megatron_longrlvr.errors import CheckpointError

# What torch and megatron-core write into an index, by module. Records all of them: to make one runs
# no code of the file's choice.
_CLASSES_OF_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata"),
        *("TensorStorageMetadata", "TensorProperties", "BytesStorageMetadata"),
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {
        *("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "bfloat16", "float16", "float32", "float64", "int64", "int32", "uint8"},
}

# Zip format: a local file header is 30 bytes, the lengths of name and extra field its last four.
_LOCAL_HEADER_BYTES = 30
_LENGTHS = struct.Struct("<HH")
# What says where the values of an archive lie is within so many bytes of either end.
_END_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredChunkPlace:
    """One box of a stored tensor and the bytes that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: Path
    start: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of the index."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[StoredChunkPlace, ...]


class TorchDistReader:
    """The tensors of a directory of ``.distcp`` files, by key.

    Args:
        directory: With an index.
        reads_in_order: Whether all chunks will be read, in the order of the files; the next is
            then brought from the disk early.
    """

    def __init__(self, directory: Path, *, reads_in_order: bool = True) -> None:
        self.directory = directory
        self.tensors = read_index(directory)
        self._maps: dict[Path, mmap.mmap] = {}
        self._first_bytes: dict[tuple[Path, int], int] = {}
        self._of_last_lead: tuple[str, tuple[int, ...], tuple[StoredChunkPlace, ...]] = ("", (), ())
        self._ahead = SourceFiles()
        self._following = self._next_chunks() if reads_in_order else {}

    def extents(
        self, key: str, lead: tuple[int, ...], box: tuple[slice, ...]
    ) -> tuple[FileRange, ...] | None:
        """Find the bytes of a part of a tensor, in the order of its values.

        Args:
            key: A key of :attr:`tensors`.
            lead: Index into the leading dims.
            box: Range of each remaining dim, with both ends.

        Returns:
            None where some rows of the box are not in one piece.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        stored = self.tensors[key]
        wanted = _with_lead(lead, box)
        row_dim, found = len(lead), []
        for chunk in self._chunks(key, lead):
            common = _overlap(wanted, chunk)
            if common is None:
                continue
            within = _relative(common, chunk.offsets)
            for dim in range(row_dim + 1, len(wanted)):
                if within[dim] != slice(0, chunk.sizes[dim]) or common[dim] != wanted[dim]:
                    return None
            found.append((common[row_dim], self._range_of(key, chunk, stored.dtype, within)))
        found.sort(key=lambda one: one[0].start)
        ends = [wanted[row_dim].start, *(rows.stop for rows, _ in found)]
        starts = [*(rows.start for rows, _ in found), wanted[row_dim].stop]
        return tuple(part for _, part in found) if starts == ends else None

    def read(
        self,
        key: str,
        lead: tuple[int, ...],
        box: tuple[slice, ...],
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Read a part of a tensor.

        Args:
            key: A key of :attr:`tensors`.
            lead: Index into the leading dims.
            box: Range of each remaining dim, with both ends.
            out: Where to put what lies in several chunks; None for new memory.

        Returns:
            Values of the box; shares the file's memory where one chunk holds all of them.

        Raises:
            CheckpointError: A file is missing or damaged, or no chunk holds some part.
        """
        stored = self.tensors[key]
        wanted = _with_lead(lead, box)
        sizes = [one.stop - one.start for one in wanted]
        result: Tensor | None = None
        num_found = 0
        for chunk in self._chunks(key, lead):
            common = _overlap(wanted, chunk)
            if common is None:
                continue
            part = self._chunk(key, chunk, stored.dtype)[_relative(common, chunk.offsets)]
            num_found += part.numel()
            if list(part.shape) == sizes:
                result = part
                break
            if result is None:
                result = torch.empty(sizes, dtype=stored.dtype) if out is None else out.view(sizes)
            result[_relative(common, tuple(one.start for one in wanted))] = part
        if result is None or num_found < result.numel():
            raise CheckpointError(f"{self.directory / INDEX_FILE} has no chunk for a part of {key}")
        return result.reshape(sizes[len(lead) :])

    def check(self) -> None:
        """Make sure that every chunk lies within its file.

        Raises:
            CheckpointError: It does not; names tensor and file.
        """
        for key, stored in self.tensors.items():
            for chunk in stored.chunks:
                if not chunk.path.is_file():
                    raise CheckpointError(f"{chunk.path} is missing; tensor {key} is there")
                if chunk.start + chunk.length > chunk.path.stat().st_size:
                    raise CheckpointError(f"{chunk.path} is truncated; tensor {key} is cut off")

    def _next_chunks(self) -> dict[tuple[Path, int], FileRange]:
        """What follows each chunk in its file."""
        in_order = sorted(
            {(one.path, one.start, one.length) for t in self.tensors.values() for one in t.chunks}
        )
        return {
            (path, start): FileRange(path=path, start=after[1], nbytes=after[2])
            for (path, start, _), after in pairwise(in_order)
            if path == after[0]
        }

    def _chunks(self, key: str, lead: tuple[int, ...]) -> tuple[StoredChunkPlace, ...]:
        """Chunks that hold values at an index of the leading dims, which is asked for many times.

        A large model has a thousand chunks under one key.
        """
        if self._of_last_lead[:2] != (key, lead):
            ours = tuple(
                chunk
                for chunk in self.tensors[key].chunks
                if all(
                    first <= index < first + size
                    for index, first, size in zip(lead, chunk.offsets, chunk.sizes, strict=False)
                )
            )
            self._of_last_lead = (key, lead, ours)
        return self._of_last_lead[2]

    def _chunk(self, key: str, chunk: StoredChunkPlace, dtype: torch.dtype) -> Tensor:
        if after := self._following.pop((chunk.path, chunk.start), None):
            self._ahead.announce(after)
        values = torch.frombuffer(
            self._map(chunk.path),
            dtype=dtype,
            count=math.prod(chunk.sizes),
            offset=self._first_byte(key, chunk, dtype),
        )
        return values.view(chunk.sizes)

    def _range_of(
        self, key: str, chunk: StoredChunkPlace, dtype: torch.dtype, within: tuple[slice, ...]
    ) -> FileRange:
        """Bytes of consecutive values of a chunk."""
        first = 0
        for part, size in zip(within, chunk.sizes, strict=True):
            first = first * size + part.start
        count = math.prod(part.stop - part.start for part in within)
        return FileRange(
            path=chunk.path,
            start=self._first_byte(key, chunk, dtype) + first * dtype.itemsize,
            nbytes=count * dtype.itemsize,
        )

    def _first_byte(self, key: str, chunk: StoredChunkPlace, dtype: torch.dtype) -> int:
        """Where the values of a chunk start within its file."""
        place = (chunk.path, chunk.start)
        if place not in self._first_bytes:
            if after := self._following.get(place):
                self._ahead.announce(after.within(0, _END_BYTES))
                self._ahead.announce(after.within(max(after.nbytes - _END_BYTES, 0), _END_BYTES))
            try:
                archive = _Archive(self._map(chunk.path), chunk.start, chunk.length)
                self._first_bytes[place] = _first_byte_of_values(archive, chunk.sizes, dtype)
            except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, KeyError) as error:
                raise CheckpointError(
                    f"{chunk.path} is missing or damaged where tensor {key} is: {error}"
                ) from error
        return self._first_bytes[place]

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            with path.open("rb") as file:
                # A private mapping, never written to: torch wants a buffer it may write.
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[path]


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - classes of any kind
        if name in _CLASSES_OF_INDEX.get(module, set()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into an index")


class _Archive(io.RawIOBase):
    """One ``torch.save`` archive within a mapped file, as a file of its own."""

    def __init__(self, mapped: mmap.mmap, start: int, length: int) -> None:
        if start + length > len(mapped):
            raise ValueError("the file is truncated")
        self.mapped, self.start, self.length = mapped, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        count = max(min(len(buffer), self.length - self._position), 0)
        first = self.start + self._position
        buffer[:count] = self.mapped[first : first + count]
        self._position += count
        return count


def _first_byte_of_values(archive: _Archive, sizes: tuple[int, ...], dtype: torch.dtype) -> int:
    described = torch.load(archive, map_location="meta", weights_only=True)  # type: ignore[arg-type]
    expected = torch.empty(sizes, dtype=dtype, device="meta")
    for what in ("dtype", "shape", "stride", "storage_offset"):
        found, wanted = getattr(described, what), getattr(expected, what)
        if what in ("stride", "storage_offset"):
            found, wanted = found(), wanted()
        if found != wanted:
            raise ValueError(f"{what} is {found}, the index says {wanted}")
    archive.seek(0)
    with zipfile.ZipFile(archive) as entries:
        (entry,) = [one for one in entries.infolist() if one.filename.endswith("/data/0")]
    if entry.file_size != expected.nbytes:
        raise ValueError(f"{entry.file_size} bytes of values instead of {expected.nbytes}")
    header = archive.start + entry.header_offset
    lengths = _LENGTHS.unpack_from(archive.mapped, header + _LOCAL_HEADER_BYTES - _LENGTHS.size)
    return header + _LOCAL_HEADER_BYTES + int(sum(lengths))


def read_index(directory: Path) -> dict[str, StoredTensor]:
    """Read the index of a directory.

    Raises:
        CheckpointError: It is missing or is none, or names a class that does not belong there.
    """
    path = directory / INDEX_FILE
    try:
        with path.open("rb") as file:
            index = _IndexUnpickler(file).load()
        place_by_chunk = {
            (one.fqn, tuple(one.offset)): place
            for one, place in index.storage_data.items()
            if one.offset is not None
        }
        return {
            key: StoredTensor(
                shape=tuple(stored.size),
                dtype=stored.properties.dtype,
                chunks=tuple(
                    _chunk_place(directory, chunk, place_by_chunk[key, tuple(chunk.offsets)])
                    for chunk in stored.chunks
                ),
            )
            for key, stored in index.state_dict_metadata.items()
            if hasattr(stored, "chunks")
        }
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; this is no torch_dist checkpoint") from None
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is not an index of tensors: {error!r}") from error


def _chunk_place(directory: Path, chunk: Any, place: Any) -> StoredChunkPlace:  # noqa: ANN401
    return StoredChunkPlace(
        offsets=tuple(chunk.offsets),
        sizes=tuple(chunk.sizes),
        path=directory / place.relative_path,
        start=place.offset,
        length=place.length,
    )


def _with_lead(lead: tuple[int, ...], box: tuple[slice, ...]) -> tuple[slice, ...]:
    return (*(slice(index, index + 1) for index in lead), *box)


def _overlap(wanted: tuple[slice, ...], chunk: StoredChunkPlace) -> tuple[slice, ...] | None:
    common = tuple(
        slice(max(one.start, offset), min(one.stop, offset + size))
        for one, offset, size in zip(wanted, chunk.offsets, chunk.sizes, strict=True)
    )
    return common if all(one.start < one.stop for one in common) else None


def _relative(box: tuple[slice, ...], origin: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(one.start - first, one.stop - first) for one, first in zip(box, origin, strict=True)
    )
