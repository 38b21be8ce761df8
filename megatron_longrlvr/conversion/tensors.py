"""The tensors of a model by Hugging Face name, rows at a time, whatever format they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from megatron_longrlvr.conversion.source_files import FileRange
from megatron_longrlvr.conversion.torch_dist_names import places, stored_shapes
from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.conversion.torch_dist_writer import INDEX_FILE
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import rules_for_model, stored_rows

# Beside the weights of a run's checkpoint.
_OPTIMIZER_PREFIX = "optimizer."


class TensorFolder(Protocol):
    """What conversion and comparison ask of a folder."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Full shape of every tensor by Hugging Face name."""

    def dtype(self, name: str) -> torch.dtype: ...

    def path_of(self, name: str) -> Path:
        """A file that holds values of the tensor."""

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``; may share memory with a file."""


class HfTensors:
    """A Hugging Face folder."""

    def __init__(self, reader: HfReader) -> None:
        self._reader = reader

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._reader.shape(name) for name in self._reader.names()}

    def dtype(self, name: str) -> torch.dtype:
        return self._reader.dtype(name)

    def path_of(self, name: str) -> Path:
        return self._reader.path_of(name)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        return self._reader.read(name, (slice(start, stop),))


class CheckpointTensors:
    """The weights of a torch_dist checkpoint, of a run or converted."""

    def __init__(self, reader: TorchDistReader, spec: ModelSpec) -> None:
        self._reader = reader
        self._spec = spec
        rules = rules_for_model(spec)
        self._places = places(rules, spec)
        self._shape_by_key = {
            key: (*leading, *rest) for key, (leading, rest) in stored_shapes(rules, spec).items()
        }
        self._rule_by_name = {
            name: (rule, number) for rule in rules for number, name in enumerate(rule.hf_names)
        }

    def check(self) -> None:
        """Compare the stored tensors with those the model needs, before any is read.

        Raises:
            CheckpointError: A tensor is missing, unknown or of another shape, or a file is
                missing or truncated; names it.
        """
        index = self._reader.directory / INDEX_FILE
        stored = self._reader.tensors
        for key, shape in self._shape_by_key.items():
            if key not in stored:
                raise CheckpointError(f"{index} has no tensor {key}, which the model needs")
            if not self._fits(key, stored[key].shape, shape):
                raise CheckpointError(
                    f"{index}: tensor {key} has shape {stored[key].shape}, the model needs {shape}"
                )
        for key in stored:
            if key not in self._shape_by_key and not key.startswith(_OPTIMIZER_PREFIX):
                raise CheckpointError(f"{index} has tensor {key}, which the model lacks")
        self._reader.check()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: rule.hf_shapes[number] for name, (rule, number) in self._rule_by_name.items()}

    def dtype(self, name: str) -> torch.dtype:
        rule, _ = self._rule_by_name[name]
        return self._reader.tensors[self._places[rule.megatron_name].key].dtype

    def path_of(self, name: str) -> Path:
        rule, _ = self._rule_by_name[name]
        return self._reader.tensors[self._places[rule.megatron_name].key].chunks[0].path

    def extents(self, name: str) -> tuple[FileRange, ...] | None:
        """Where the values of a tensor are, in order; None where not all rows are in one piece."""
        rule, number = self._rule_by_name[name]
        found: list[FileRange] = []
        for box in self._boxes(name, 0, rule.hf_shapes[number][0]):
            place = self._places[rule.megatron_name]
            parts = self._reader.extents(place.key, place.lead, box)
            if parts is None:
                return None
            found += parts
        return tuple(found)

    def read(self, name: str, start: int, stop: int, *, out: Tensor | None = None) -> Tensor:
        """Rows ``start`` to ``stop``.

        Args:
            name: Hugging Face name of the tensor.
            start: First row.
            stop: End of the rows.
            out: Where to put what does not lie in one chunk; None for new memory.

        Returns:
            The rows; may share memory with a file.
        """
        rule, number = self._rule_by_name[name]
        place = self._places[rule.megatron_name]
        boxes = self._boxes(name, start, stop)
        if len(boxes) == 1:
            return self._reader.read(place.key, place.lead, boxes[0], out=out)
        if out is None:
            sizes = (stop - start, *rule.hf_shapes[number][1:])
            out = torch.empty(sizes, dtype=self.dtype(name))
        at = 0
        for box in boxes:
            part = self._reader.read(place.key, place.lead, box)
            out[at : at + len(part)] = part
            at += len(part)
        return out

    def _boxes(self, name: str, start: int, stop: int) -> list[tuple[slice, ...]]:
        """Where some rows lie within the stored parameter."""
        rule, number = self._rule_by_name[name]
        others = tuple(slice(0, size) for size in rule.hf_shapes[number][1:])
        rows = stored_rows(rule, number, (start, stop), self._spec)
        return [(slice(first, end), *others) for first, end in rows]

    def _fits(self, key: str, found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
        rows = self._spec.vocab_size
        if needed[:1] == (rows,) and not key.startswith("decoder."):
            # Tensor parallelism appends rows to embedding and output layer.
            return found[0] >= rows and found[1:] == needed[1:]
        return found == needed
