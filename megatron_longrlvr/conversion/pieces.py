"""What a torch_dist checkpoint of a model is made of, piece by piece, before any is written.

A large parameter is cut as that many tensor-parallel ranks would cut it. A piece then needs
little memory, and a rank that loads the checkpoint reads, up to the finest cut, its own share
alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_longrlvr.conversion.source_files import FileRange, SourceFiles
from megatron_longrlvr.conversion.torch_dist_names import Place, places, stored_shapes
from megatron_longrlvr.errors import CheckpointError, ConfigError
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import (
    Cut,
    Rule,
    assemble,
    hf_slices,
    rules_for_model,
    shard_shape,
)

# Small beside the memory of any machine, large beside the cost of a read or a write.
PIECE_BYTES = 32 * 2**20
# No tensor-parallel group is larger in practice, and each piece costs an entry in the index.
_MOST_PIECES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A box of a stored tensor; the offsets name it within the checkpoint."""

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One tensor-parallel share of one parameter: what is read and converted at a time."""

    rule: Rule
    share: int
    num_shares: int
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]
    """Gate and up of one share are not neighbours in the whole tensor: two chunks of equal size.
    Everything else is one chunk."""

    @property
    def nbytes(self) -> int:
        return sum(math.prod(chunk.sizes) for chunk in self.chunks) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPlan:
    """Everything a checkpoint will hold."""

    shape_by_key: dict[str, tuple[int, ...]]
    dtype_by_key: dict[str, torch.dtype]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)


def plan_checkpoint(
    reader: HfReader, spec: ModelSpec, *, dtype: torch.dtype | None, piece_bytes: int = PIECE_BYTES
) -> CheckpointPlan:
    """List what a folder becomes.

    Args:
        reader: Of a folder that was checked to hold this model.
        spec: The model.
        dtype: Of everything stored; None keeps each tensor's own.
        piece_bytes: Parameters above this are cut, as long as they divide.

    Raises:
        CheckpointError: Tensors that are stored as one differ in dtype and ``dtype`` is None.
    """
    rules = rules_for_model(spec)
    place_by_name = places(rules, spec)
    dtype_by_key: dict[str, torch.dtype] = {}
    pieces: list[Piece] = []
    for rule in rules:
        place = place_by_name[rule.megatron_name]
        for name in rule.hf_names:
            own = dtype or reader.dtype(name)
            if dtype_by_key.setdefault(place.key, own) != own:
                raise CheckpointError(
                    f"{reader.path_of(name)}: tensor {name} is {own} and others that are stored "
                    f"with it in {place.key} are {dtype_by_key[place.key]}; give a --dtype for all"
                )
        pieces += _cut(rule, spec, place, dtype_by_key[place.key], piece_bytes)
    shapes = stored_shapes(rules, spec)
    return CheckpointPlan(
        shape_by_key={key: (*leading, *rest) for key, (leading, rest) in shapes.items()},
        dtype_by_key=dtype_by_key,
        pieces=tuple(pieces),
    )


def extents_of_piece(
    reader: HfReader, piece: Piece, spec: ModelSpec
) -> tuple[tuple[FileRange, ...], ...] | None:
    """Find the bytes of each chunk of a piece, in order.

    Returns:
        None where they do not stand like that in the folder: they are columns, of another dtype,
        or under another name.
    """
    rule = piece.rule
    if rule.cut is Cut.COLUMNS and piece.num_shares > 1:
        return None
    indices = hf_slices(rule, spec, tp_rank=piece.share, tp_size=piece.num_shares)
    parts: list[list[FileRange]] = []
    for name, index, shape in zip(rule.hf_names, indices, rule.hf_shapes, strict=True):
        if reader.dtype(name) != piece.dtype:
            return None
        start, stop, _ = (index[0] if index else slice(None)).indices(shape[0])
        # Queries, keys and values take turns, kv head by kv head.
        num_turns = spec.num_kv_heads // piece.num_shares if rule.cut is Cut.FUSED_QKV else 1
        step = (stop - start) // num_turns
        found = (
            _extent(reader, name, slice(start + turn * step, start + (turn + 1) * step))
            for turn in range(num_turns)
        )
        turns = [one for one in found if one is not None]
        if len(turns) < num_turns:
            return None
        parts.append(turns)
    if len(piece.chunks) == len(parts):
        return tuple(tuple(turns) for turns in parts)
    return (tuple(one for of_turn in zip(*parts, strict=True) for one in of_turn),)


def read_piece(reader: HfReader, piece: Piece, spec: ModelSpec) -> tuple[Tensor, ...]:
    """Read what a piece needs and convert it: one tensor per chunk; may share a file's memory."""
    rule = piece.rule
    indices = hf_slices(rule, spec, tp_rank=piece.share, tp_size=piece.num_shares)
    parts = [reader.read(name, index) for name, index in zip(rule.hf_names, indices, strict=True)]
    if len(piece.chunks) == len(parts):
        return tuple(parts)  # each lies apart from the others
    return (assemble(rule, parts, spec, tp_size=piece.num_shares),)


def announce_columns(reader: HfReader, piece: Piece, files: SourceFiles) -> None:
    """Have what columns are read from brought while something else is done."""
    if piece.rule.cut is not Cut.COLUMNS or piece.share > 0:
        return  # the first share's rows hold the columns of all of them
    for name in piece.rule.hf_names:
        extent = _extent(reader, name, slice(None))
        if extent is not None:
            files.announce(extent)


def share_of_rank(pieces: Sequence[Piece], *, rank: int, num_ranks: int) -> list[Piece]:
    """A contiguous run of the pieces for each rank, of about equal bytes."""
    total = sum(piece.nbytes for piece in pieces)
    mine, start = [], 0
    for piece in pieces:
        # Integer arithmetic: every rank must come to the same cuts.
        if start * num_ranks // max(total, 1) == rank:
            mine.append(piece)
        start += piece.nbytes
    return mine


def _extent(reader: HfReader, name: str, rows: slice) -> FileRange | None:
    extent = reader.extent(name, rows)
    if extent is None:
        return None
    return FileRange(path=reader.path_of(name), start=extent[0], nbytes=extent[1])


def _cut(
    rule: Rule, spec: ModelSpec, place: Place, dtype: torch.dtype, piece_bytes: int
) -> list[Piece]:
    num_shares = _num_shares(rule, spec, dtype, piece_bytes)
    key, lead = place.key, place.lead
    sizes = shard_shape(rule, spec, tp_size=num_shares)
    return [
        Piece(
            rule=rule,
            share=share,
            num_shares=num_shares,
            dtype=dtype,
            chunks=tuple(
                Chunk(key=key, offsets=(*lead, *offsets), sizes=(*(1,) * len(lead), *chunk_sizes))
                for offsets, chunk_sizes in _boxes(rule, sizes, share, num_shares)
            ),
        )
        for share in range(num_shares)
    ]


def _boxes(
    rule: Rule, sizes: tuple[int, ...], share: int, num_shares: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of a share within the unsplit parameter."""
    origin = (0,) * len(sizes)
    if rule.cut is Cut.COLUMNS:
        return [((0, share * sizes[1]), sizes)]
    if rule.cut is Cut.FUSED_GATE_UP:
        half = (sizes[0] // 2, *sizes[1:])
        return [(((place * num_shares + share) * half[0], *origin[1:]), half) for place in range(2)]
    return [((share * sizes[0], *origin[1:]), sizes)]


def _num_shares(rule: Rule, spec: ModelSpec, dtype: torch.dtype, piece_bytes: int) -> int:
    """Smallest power of two that makes the shares small, or the largest that divides."""
    nbytes = sum(math.prod(shape) for shape in rule.hf_shapes) * dtype.itemsize
    best = 1
    if rule.cut is Cut.REPLICATED:
        return best
    while nbytes > best * piece_bytes and best < _MOST_PIECES and _divides(rule, spec, 2 * best):
        best *= 2
    return best


def _divides(rule: Rule, spec: ModelSpec, num_shares: int) -> bool:
    if rule.cut is Cut.VOCABULARY_ROWS:
        return spec.vocab_size % num_shares == 0  # no padding: the stored tensor has none
    try:
        hf_slices(rule, spec, tp_rank=0, tp_size=num_shares)
    except ConfigError:
        return False
    return True
