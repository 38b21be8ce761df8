"""A Hugging Face folder becomes a torch_dist checkpoint, one piece of a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from megatron_longrlvr.checkpoint.weights import WEIGHTS_DIRECTORY
from megatron_longrlvr.conversion.folder import (
    copy_descriptions,
    description_files,
    new_folder,
    write_converted_manifest,
)
from megatron_longrlvr.conversion.pieces import (
    PIECE_BYTES,
    CheckpointPlan,
    Piece,
    announce_columns,
    extents_of_piece,
    plan_checkpoint,
    read_piece,
    share_of_rank,
)
from megatron_longrlvr.conversion.progress import Advance, ignore_progress
from megatron_longrlvr.conversion.ranks import Ranks
from megatron_longrlvr.conversion.reused_memory import ReusedMemory
from megatron_longrlvr.conversion.safetensors_writer import put_values
from megatron_longrlvr.conversion.source_files import PutValues, SourceFiles
from megatron_longrlvr.conversion.torch_dist_writer import (
    ChunkWriter,
    StoredChunk,
    write_index,
)
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.hf_spelling import other_spellings
from megatron_longrlvr.model.hf_weights import check_folder
from megatron_longrlvr.model.spec import ModelSpec, read_model_spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """A conversion that was checked and can be run or shown."""

    source: Path
    spec: ModelSpec
    plan: CheckpointPlan

    @property
    def peak_bytes(self) -> int:
        """Memory for values that a rank holds at once: a piece as read and as converted."""
        return 2 * max(piece.nbytes for piece in self.plan.pieces)

    @property
    def copied_files(self) -> tuple[str, ...]:
        return tuple(path.name for path in description_files(self.source))


def plan_import(
    source: Path, *, dtype: torch.dtype | None = None, piece_bytes: int = PIECE_BYTES
) -> Import:
    """Check a folder and plan its conversion; reads no values but those of tied embeddings.

    Args:
        source: Hugging Face folder with safetensors.
        dtype: Of everything stored; None keeps each tensor's own.
        piece_bytes: Parameters above this are read and written in pieces.

    Raises:
        ConfigError: ``config.json`` describes a model that is not known; names the key.
        CheckpointError: The tensors are not those of ``config.json``, or a file is damaged; names
            tensor and file.
    """
    spec = read_model_spec(source)
    with HfReader(source, spellings=other_spellings(spec)) as reader:
        check_folder(reader, spec)
        return Import(
            source=source,
            spec=spec,
            plan=plan_checkpoint(reader, spec, dtype=dtype, piece_bytes=piece_bytes),
        )


def run_import(
    work: Import,
    target: Path,
    *,
    ranks: Ranks,
    overwrite: bool = False,
    advance: Advance = ignore_progress,
) -> None:
    """Write ``target``, which a recipe's ``model.path`` can name. Every rank calls this.

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
    if work.source.resolve() == target.resolve():
        raise CheckpointError(f"{target} is the source; choose another folder")
    plan = work.plan
    mine = share_of_rank(plan.pieces, rank=ranks.rank, num_ranks=ranks.size)
    with new_folder(target, ranks=ranks, overwrite=overwrite, needed_bytes=plan.nbytes) as folder:
        weights = folder / WEIGHTS_DIRECTORY
        ranks.on_first_rank(weights.mkdir)
        stored = ranks.on_every_rank(lambda: _write_pieces(work, mine, weights, ranks, advance))

        def finish() -> None:
            write_index(weights, plan, [one for of_rank in stored for one in of_rank])
            copy_descriptions(work.source, folder)
            dtypes = sorted({str(dtype) for dtype in plan.dtype_by_key.values()})
            write_converted_manifest(
                folder, source=work.source, weight_bytes=plan.nbytes, dtypes=tuple(dtypes)
            )

        ranks.on_first_rank(finish)


def _write_pieces(
    work: Import, pieces: list[Piece], directory: Path, ranks: Ranks, advance: Advance
) -> tuple[StoredChunk, ...]:
    memory = ReusedMemory()
    with (
        HfReader(work.source, spellings=other_spellings(work.spec)) as reader,
        ChunkWriter(directory, ranks.rank) as writer,
        SourceFiles() as files,
    ):
        for piece, following in zip(pieces, [*pieces[1:], None], strict=False):
            if following is not None:
                announce_columns(reader, following, files)
            try:
                for chunk, values in zip(
                    piece.chunks, _sources(reader, piece, work.spec, files, memory), strict=True
                ):
                    writer.write(chunk, piece.dtype, values)
            except OSError as error:
                raise CheckpointError(
                    f"cannot write tensor {piece.rule.megatron_name} to {writer.path}: {error}"
                ) from error
            advance(piece.nbytes)
    return writer.stored


def _sources(
    reader: HfReader, piece: Piece, spec: ModelSpec, files: SourceFiles, memory: ReusedMemory
) -> Iterator[PutValues]:
    """What writes the values of each chunk of a piece."""
    extents = extents_of_piece(reader, piece, spec)
    if extents is not None:
        for of_chunk in extents:
            yield partial(files.copy_all, of_chunk)
        return
    for values in read_piece(reader, piece, spec):
        held = memory.take(tuple(values.shape), piece.dtype)
        held.copy_(values)
        yield partial(put_values, held)
