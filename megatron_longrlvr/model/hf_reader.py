"""Reading the tensors of a Hugging Face model folder, whole or in slices.

Knows files, names and shapes; knows nothing of Megatron. Only safetensors are read: they can be
read in slices, and loading one runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_spelling import StoredPart

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_HEADER_COUNT_BYTES = 8
_FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")


class HfReader:
    """The tensors of a folder, read lazily. A context manager: files stay open within it.

    Args:
        folder: Hugging Face folder with safetensors.
        spellings: Where a tensor stands if the folder has none of its name; see
            :mod:`megatron_longrlvr.model.hf_spelling`.
    """

    def __init__(self, folder: Path, *, spellings: Mapping[str, StoredPart] | None = None) -> None:
        self.folder = folder
        self._spellings = spellings or {}
        self._open_files = ExitStack()
        self._handles: dict[str, Any] = {}
        self._headers: dict[str, tuple[int, dict[str, Any]]] = {}
        self._file_by_name = self._read_index()

    def __enter__(self) -> HfReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handles.clear()
        self._open_files.close()

    def check(self, shape_by_name: Mapping[str, tuple[int, ...]], *, ignored: set[str]) -> None:
        """Compare the folder's tensors with those a model needs, before any is read.

        Args:
            shape_by_name: Every tensor of the model with its full shape.
            ignored: Names that may be there without being needed.

        Raises:
            CheckpointError: A tensor is missing, unknown or of another shape or type; names it
                and its file.
        """
        stored_shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in shape_by_name.items():
            part = self._part(name)
            stored_shapes |= {name: shape} if part is None else {part.name: part.shape}
        for name in stored_shapes:
            if name not in self._file_by_name:
                raise CheckpointError(f"{self.folder} has no tensor {name}")
        for name, file in self._file_by_name.items():
            # Llama checkpoints of 2023 carry the rotary frequencies, which follow from the config.
            if name in ignored or name.endswith(".rotary_emb.inv_freq"):
                continue
            if name not in stored_shapes:
                raise CheckpointError(
                    f"{self.folder / file} has tensor {name}, which the model of config.json lacks"
                )
        for name, shape in stored_shapes.items():
            self._check_tensor(name, shape)

    def __contains__(self, name: object) -> bool:
        return name in self._file_by_name

    def path_of(self, name: str) -> Path:
        """File that holds a tensor."""
        return self.folder / self._file_by_name[name]

    def names(self) -> tuple[str, ...]:
        """Every tensor of the folder."""
        return tuple(self._file_by_name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Full shape of a tensor."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """What the values of a tensor are."""
        return self.read(name, (slice(0, 0),)).dtype

    def read(self, name: str, index: tuple[slice, ...] = ()) -> Tensor:
        """Read a tensor, or the part of it that ``index`` names, in the file's dtype."""
        part = self._part(name)
        if part is not None:
            return self._slice(part.name)[part.index(index)]  # type: ignore[no-any-return]
        return self._slice(name)[index or slice(None)]  # type: ignore[no-any-return]

    def extent(self, name: str, rows: slice = slice(None)) -> tuple[int, int] | None:
        """First byte and number of bytes of some rows of a tensor, within its file.

        None where the file has the tensor under another name.
        """
        if name not in self._file_by_name:
            return None
        file = self._file_by_name[name]
        if file not in self._headers:
            self._headers[file] = _read_header(self.folder / file)
        values_start, entries = self._headers[file]
        first, end = entries[name]["data_offsets"]
        shape = entries[name]["shape"]
        start, stop, _ = rows.indices(shape[0])
        row_bytes = (end - first) // max(shape[0], 1)
        return values_start + first + start * row_bytes, (stop - start) * row_bytes

    def _part(self, name: str) -> StoredPart | None:
        """Where a tensor stands under another name; None where the folder has its own."""
        part = self._spellings.get(name)
        if part is None or name in self._file_by_name or part.name not in self._file_by_name:
            return None
        return part

    def _read_index(self) -> dict[str, str]:
        index = self.folder / INDEX_FILE
        if index.exists():
            try:
                return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise CheckpointError(f"{index} is not a safetensors index: {error}") from error
        if (self.folder / SINGLE_FILE).exists():
            return dict.fromkeys(self._handle(SINGLE_FILE).keys(), SINGLE_FILE)
        if any(self.folder.glob("pytorch_model*.bin")):
            raise CheckpointError(
                f"{self.folder} holds weights as pytorch_model.bin only, which cannot be read in "
                "slices; save them with save_pretrained(safe_serialization=True)"
            )
        raise CheckpointError(f"{self.folder} has neither {SINGLE_FILE} nor {INDEX_FILE}")

    def _handle(self, file: str) -> Any:  # noqa: ANN401 - safetensors is untyped
        if file not in self._handles:
            path = self.folder / file
            try:
                handle = safe_open(path, framework="pt")
            except FileNotFoundError as error:
                raise CheckpointError(f"{path} is in the index but does not exist") from error
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
            self._handles[file] = self._open_files.enter_context(handle)
        return self._handles[file]

    def _slice(self, name: str) -> Any:  # noqa: ANN401 - safetensors is untyped
        file = self._file_by_name[name]
        try:
            return self._handle(file).get_slice(name)
        except SafetensorError as error:
            raise CheckpointError(
                f"{self.folder / file} lacks tensor {name}, which the index places there"
            ) from error

    def _check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        stored = self._slice(name)
        where = f"{self.folder / self._file_by_name[name]}: tensor {name}"
        if tuple(stored.get_shape()) != shape:
            raise CheckpointError(
                f"{where} has shape {tuple(stored.get_shape())}, config.json asks for {shape}"
            )
        if stored.get_dtype() not in _FLOAT_DTYPES:
            raise CheckpointError(
                f"{where} is {stored.get_dtype()}, expected one of {', '.join(_FLOAT_DTYPES)}"
            )


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Byte at which the values of a safetensors file start, and its JSON header."""
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(_HEADER_COUNT_BYTES), "little")
        return _HEADER_COUNT_BYTES + num_bytes, json.loads(file.read(num_bytes))
