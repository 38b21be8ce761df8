"""Reading, of each stored tensor, the slice that a rank holds.

torch.distributed.checkpoint reads every stored chunk that a rank needs some of, whole: a rank of
two would read everything that was stored by one. Here only the rows and columns that are needed
leave the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.mcore import (
    ShardedTensor,
    TorchDistLoadShardedStrategy,
    dict_list_map_outplace,
)


class OwnSlices(TorchDistLoadShardedStrategy):  # type: ignore[misc] # megatron.core is untyped
    """How megatron-core is to load tensors from torch_dist files."""

    def load(
        self,
        sharded_state_dict: dict[str, Any],
        checkpoint_dir: Path,
        async_strategy: str = "mcore",  # noqa: ARG002 - megatron-core 0.19 passes it
    ) -> dict[str, Any]:
        """Fill the rank's tensors; returns the state with tensors in place of their descriptions.

        Raises:
            CheckpointError: A tensor is missing or of another shape, or a file is damaged.
        """
        reader = TorchDistReader(Path(checkpoint_dir), reads_in_order=False)
        filled: dict[str, Any] = dict_list_map_outplace(
            lambda sharded: _fill(reader, sharded), sharded_state_dict
        )
        return filled


def _fill(reader: TorchDistReader, sharded: Any) -> Tensor:  # noqa: ANN401 - megatron.core is untyped
    assert isinstance(sharded, ShardedTensor), f"weights are tensors, not {type(sharded)}"
    values: Tensor = sharded.data.detach()
    stored = reader.tensors.get(sharded.key)
    if stored is None:
        raise CheckpointError(f"{reader.directory} has no tensor {sharded.key}")
    wanted = tuple(sharded.global_shape)
    # Tensor parallelism appends rows to embedding and output layer, in another number than stored.
    is_padded = sharded.allow_shape_mismatch and stored.shape[1:] == wanted[1:]
    if stored.shape != wanted and not is_padded:
        raise CheckpointError(
            f"{reader.directory}: tensor {sharded.key} has shape {stored.shape}, the model needs "
            f"{wanted}"
        )
    num_lead = sharded.prepend_axis_num
    offsets = sharded.global_offset[num_lead:]
    box = tuple(
        slice(start, min(start + size, whole))
        for start, size, whole in zip(offsets, values.shape, stored.shape[num_lead:], strict=True)
    )
    num_rows = max(box[0].stop - box[0].start, 0)
    if num_rows:
        lead = tuple(sharded.global_offset[:num_lead])
        values[:num_rows].copy_(reader.read(sharded.key, lead, box))
    values[num_rows:].zero_()
    return values
