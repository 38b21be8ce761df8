"""Other names under which a Hugging Face folder may hold a model's tensors.

transformers 4 writes every matrix of every expert as a tensor of its own, and that is what the
weight table names and what is written here. transformers 5 holds the experts of a layer stacked in
two tensors and writes those where it is asked not to go back to the older names
(``save_pretrained(save_original_format=False)``); Mixtral's block is then called ``mlp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_longrlvr.model.family import FAMILIES
from megatron_longrlvr.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPart:
    """A tensor that stands in a file as part of a larger one, or under another name."""

    name: str
    """Of the tensor in the file."""

    shape: tuple[int, ...]
    """Of the whole tensor in the file."""

    expert: int | None = None
    """Index into the first dim of the file's tensor; None where that has no such dim."""

    first_row: int = 0
    num_rows: int
    """Rows of the part, along the first dim behind the expert's."""

    def index(self, wanted: tuple[slice, ...]) -> tuple[slice | int, ...]:
        """Index into the file's tensor for ``wanted`` of this part; empty for all of it."""
        rows, *others = wanted or (slice(None),)
        start, stop, _ = rows.indices(self.num_rows)
        place = () if self.expert is None else (self.expert,)
        return (*place, slice(self.first_row + start, self.first_row + stop), *others)


def other_spellings(spec: ModelSpec) -> Mapping[str, StoredPart]:
    """Where a tensor of the weight table may stand otherwise, by its name in the table."""
    names, experts = FAMILIES[spec.architecture].expert_names, spec.experts
    if names is None or experts is None:
        return {}
    count, ffn, hidden = experts.num_experts, experts.intermediate_size, spec.hidden_size
    parts: dict[str, StoredPart] = {}
    for layer in filter(spec.has_experts, range(spec.num_layers)):
        block = f"model.layers.{layer}"
        parts[f"{block}.{names.router}"] = StoredPart(
            name=f"{block}.mlp.gate.weight", shape=(count, hidden), num_rows=count
        )
        gate_up, down = f"{block}.mlp.experts.gate_up_proj", f"{block}.mlp.experts.down_proj"
        shape = (count, 2 * ffn, hidden)
        for expert in range(count):
            own = {
                names.gate: StoredPart(name=gate_up, shape=shape, expert=expert, num_rows=ffn),
                names.up: StoredPart(
                    name=gate_up, shape=shape, expert=expert, first_row=ffn, num_rows=ffn
                ),
                names.down: StoredPart(
                    name=down, shape=(count, hidden, ffn), expert=expert, num_rows=hidden
                ),
            }
            for matrix, part in own.items():
                parts[f"{block}.{names.expert.format(expert=expert, matrix=matrix)}"] = part
    return parts
