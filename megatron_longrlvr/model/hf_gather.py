"""Full Hugging Face tensors out of parameters that many ranks share, bucket by bucket.

Every rank has one buffer for all buckets in turn: a region for each tensor-parallel rank, holding
its part of every parameter of the bucket. Whoever has a part writes it in place; then the regions
are filled up by broadcasts, first among expert-parallel ranks, then along the pipeline, then over
the tensor-parallel ranks, neighbouring parts of one owner together. Tensors are then put together
from the regions one at a time. So beside the model there are never more than one bucket and the
tensor being yielded.

The parameters of a rank alone need no buffer: tensors are put together from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.model.mcore import dequantize_fp8_tensor, is_float8tensor
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import Cut, Rule, merge_one, rules_for_model, shard_shape
from megatron_longrlvr.parallel.collectives import gather_objects

SharingAxis = Literal["tp", "ep", "pp"]

_Key = TypeVar("_Key")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """One parameter of a bucket."""

    rule: Rule
    shape: tuple[int, ...]
    """Of one tensor-parallel rank's part."""

    num_parts: int
    """1 where every tensor-parallel rank holds the same."""

    owner: tuple[int, int]
    """Expert-parallel and pipeline rank that it comes from."""

    @property
    def part_numel(self) -> int:
        return math.prod(self.shape)

    @property
    def numel(self) -> int:
        return self.part_numel * self.num_parts


def gather_hf_tensors(
    parameters: Mapping[str, Tensor],
    spec: ModelSpec,
    *,
    groups: Mapping[SharingAxis, dist.ProcessGroup | None],
    bucket_bytes: int,
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and full tensor of the whole model in forward order, on every rank.

    A collective over all groups: every rank must exhaust the iterator.

    Args:
        parameters: This rank's, by their name in the whole model, all of one dtype.
        spec: The model.
        groups: Ranks that share tensors, experts and layers; None where a rank has all.
        bucket_bytes: Limit of a bucket's buffer; a larger parameter makes a bucket of its own.
    """
    # Not torch.no_grad(): around a generator it keeps what was yielded last.
    parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    shared = {axis: group for axis, group in groups.items() if group and group.size() > 1}
    items = _items(parameters, spec, shared)
    like = next(iter(parameters.values()))
    assert {parameter.dtype for parameter in parameters.values()} == {like.dtype}, (
        "parameters of several dtypes cannot share a bucket"
    )
    if not shared:
        for item in items:
            yield from _merged(item, [_plain(parameters[item.rule.megatron_name])], spec)
        return
    buckets = list(split_buckets(items, bucket_bytes // like.element_size()))
    buffer = like.new_empty(max(sum(item.numel for item in bucket) for bucket in buckets))
    for bucket in buckets:
        parts = _fill(bucket, parameters, buffer, shared)
        for item in bucket:
            yield from _merged(item, parts.pop(item.rule.megatron_name), spec)


def split_buckets(items: Sequence[_Item], max_numel: int) -> Iterator[list[_Item]]:
    """Cut into runs whose elements stay within ``max_numel``, or of one item that does not."""
    bucket: list[_Item] = []
    numel = 0
    for item in items:
        if bucket and numel + item.numel > max_numel:
            yield bucket
            bucket, numel = [], 0
        bucket.append(item)
        numel += item.numel
    if bucket:
        yield bucket


def _merged(item: _Item, parts: Sequence[Tensor], spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    for place, name in enumerate(item.rule.hf_names):
        # Not bound to a name here: the caller's reference shall be the only one.
        yield name, merge_one(item.rule, place, parts, spec)


def _plain(parameter: Tensor) -> Tensor:
    """The numbers of a weight that may be held in FP8 alone, which reports to be bf16."""
    if is_float8tensor(parameter):
        return dequantize_fp8_tensor(parameter)  # type: ignore[no-any-return]
    return parameter


def _items(
    parameters: Mapping[str, Tensor],
    spec: ModelSpec,
    shared: Mapping[SharingAxis, dist.ProcessGroup],
) -> list[_Item]:
    tp_size = shared["tp"].size() if "tp" in shared else 1
    owners = _owners(parameters, shared)
    return [
        _Item(
            rule=rule,
            shape=shard_shape(rule, spec, tp_size=tp_size),
            num_parts=1 if rule.cut is Cut.REPLICATED else tp_size,
            owner=owners[rule.megatron_name],
        )
        for rule in rules_for_model(spec)
    ]


def _owners(
    parameters: Mapping[str, Tensor], shared: Mapping[SharingAxis, dist.ProcessGroup]
) -> dict[str, tuple[int, int]]:
    """Expert-parallel and pipeline rank that each parameter comes from, the lowest that has it."""
    holders = dict.fromkeys(parameters, (0, 0))
    # Every rank of a group is about to walk over the same rules.
    if "ep" in shared:
        holders = {
            name: (rank, 0)
            for rank, names in reversed(list(enumerate(gather_objects(holders, shared["ep"]))))
            for name in names
        }
    if "pp" in shared:
        holders = {
            name: (expert_rank, stage)
            for stage, theirs in reversed(list(enumerate(gather_objects(holders, shared["pp"]))))
            for name, (expert_rank, _) in theirs.items()
        }
    return holders


def _fill(
    bucket: Sequence[_Item],
    parameters: Mapping[str, Tensor],
    buffer: Tensor,
    shared: Mapping[SharingAxis, dist.ProcessGroup],
) -> dict[str, list[Tensor]]:
    """Parts of every tensor-parallel rank by parameter, views of the buffer."""
    tp = shared.get("tp")
    tp_rank, tp_size = (tp.rank(), tp.size()) if tp else (0, 1)
    cut = [item for item in bucket if item.num_parts > 1]
    whole = [item for item in bucket if item.num_parts == 1]
    sizes = [_numel(cut)] * tp_size + [_numel(whole)]
    *cut_regions, whole_region = torch.split(buffer[: sum(sizes)], sizes)
    for items, region in ((cut, cut_regions[tp_rank]), (whole, whole_region)):
        for name, view in _views(items, region).items():
            if name in parameters:
                view.copy_(_plain(parameters[name]))
        _spread(items, region, shared)
    if tp is not None and cut:
        for rank, region in enumerate(cut_regions):
            # All tensor-parallel ranks of a stage have the same bucket in hand.
            dist.broadcast(region, src=dist.get_global_rank(tp, rank), group=tp)
    parts = {name: [view] for name, view in _views(whole, whole_region).items()}
    for region in cut_regions:
        for name, view in _views(cut, region).items():
            parts.setdefault(name, []).append(view)
    return parts


def _spread(
    items: Sequence[_Item], region: Tensor, shared: Mapping[SharingAxis, dist.ProcessGroup]
) -> None:
    """Fill a region with the parts of other expert-parallel ranks and pipeline stages."""
    ep, pp = shared.get("ep"), shared.get("pp")
    stage = pp.rank() if pp else 0
    if ep is not None:
        for owner, run in _runs(items, region, lambda item: (item.owner, item.rule.expert is None)):
            (expert_rank, owning_stage), is_everywhere = owner
            # The expert-parallel ranks of one stage agree on whether it is theirs to send.
            if owning_stage == stage and not is_everywhere:
                dist.broadcast(run, src=dist.get_global_rank(ep, expert_rank), group=ep)
    if pp is not None:
        for owning_stage, run in _runs(items, region, lambda item: item.owner[1]):
            # All stages walk over the same items.
            dist.broadcast(run, src=dist.get_global_rank(pp, owning_stage), group=pp)


def _runs(
    items: Sequence[_Item], region: Tensor, key: Callable[[_Item], _Key]
) -> Iterator[tuple[_Key, Tensor]]:
    """Stretches of a region whose items have the same key."""
    start = 0
    for value, run in groupby(items, key):
        end = start + _numel(list(run))
        yield value, region[start:end]
        start = end


def _views(items: Sequence[_Item], region: Tensor) -> dict[str, Tensor]:
    """Part of each parameter in a region."""
    parts = torch.split(region, [item.part_numel for item in items])
    return {
        item.rule.megatron_name: part.view(item.shape)
        for item, part in zip(items, parts, strict=True)
    }


def _numel(items: Sequence[_Item]) -> int:
    """Elements that one tensor-parallel rank's parts have together."""
    return sum(item.part_numel for item in items)
