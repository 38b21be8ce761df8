"""The tensors of a model by Hugging Face name, rows at a time, whatever format they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from megatron_longrlvr.conversion.torch_dist_names import places, stored_shapes
from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.conversion.torch_dist_writer import INDEX_FILE
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import Cut, merge, rules_for_model

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
        return self._reader.read(name, (slice(0, 0),)).dtype

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
        self._merged: tuple[str, dict[str, Tensor]] = ("", {})

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

    def read(self, name: str, start: int, stop: int) -> Tensor:
        rule, number = self._rule_by_name[name]
        place = self._places[rule.megatron_name]
        if rule.cut is Cut.FUSED_QKV:
            # The one parameter whose tensors are interleaved. All three are asked for in turn.
            if self._merged[0] != rule.megatron_name:
                self._merged = ("", {})  # gives the memory back before more is taken
                shape = self._reader.tensors[place.key].shape[len(place.lead) :]
                whole = self._reader.read(place.key, place.lead, _box(shape, 0, shape[0]))
                self._merged = (rule.megatron_name, merge(rule, [whole], self._spec))
            return self._merged[1][name][start:stop]
        # Everything else is one tensor, or several stacked along their rows.
        above = sum(shape[0] for shape in rule.hf_shapes[:number])
        box = _box(rule.hf_shapes[number], above + start, above + stop)
        return self._reader.read(place.key, place.lead, box)

    def _fits(self, key: str, found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
        rows = self._spec.vocab_size
        if needed[:1] == (rows,) and not key.startswith("decoder."):
            # Tensor parallelism appends rows to embedding and output layer.
            return found[0] >= rows and found[1:] == needed[1:]
        return found == needed


def _box(shape: tuple[int, ...], start: int, stop: int) -> tuple[slice, ...]:
    return (slice(start, stop), *(slice(0, size) for size in shape[1:]))
