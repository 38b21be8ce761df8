"""Build what the ranks of a run would hold, without memory, weights or other ranks.

The modules are megatron-core's own, made on the meta device under groups whose collectives do
nothing, so that the parameters of a 70B model on 512 ranks are checked on a laptop: each of them
must be the shard that the weight table gives this rank, and the shards of all ranks must be the
model, no more and no less. Micro-batches are laid out for the longest prompts and responses, and
the copies of a refit are listed for one rank.

Ranks that differ in their data- or context-parallel place hold the same; of the tensor- and
expert-parallel ones the first and the last are built, of every stage.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.model.build import build_chunks_of
from megatron_longrlvr.model.critic_model import CriticModel
from megatron_longrlvr.model.hf_weights import parameters_by_name
from megatron_longrlvr.model.optimizer import wrap_for_training
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.precision import row_multiple
from megatron_longrlvr.model.sequence_plan import plan_sequences
from megatron_longrlvr.model.weight_map import (
    Cut,
    Rule,
    rules_for_body,
    rules_for_model,
    shard_shape,
    tied_output_rule,
    value_head_rule,
)
from megatron_longrlvr.parallel.device import on_meta_device
from megatron_longrlvr.parallel.groups import close_process_groups, start_planned_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.packing import Row, update_rows
from megatron_longrlvr.planner.parameters import model_parameters, stage_holdings
from megatron_longrlvr.planner.workload import Lengths, Workload, read_workload
from megatron_longrlvr.refit.plan import plan_copies
from megatron_longrlvr.refit.sources import chunk_of, source_tensors
from megatron_longrlvr.stages import Segment

_MIB = 1024**2
_RUSAGE_UNIT_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltRank:
    """What one rank's modules turned out to be."""

    rank: int
    stage: int
    num_parameters: int
    buffer_elements: int
    """Of its gradient buffers, padding included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShapes:
    """One micro-batch on the context-parallel ranks."""

    num_micro_batches: int
    """Of a data-parallel rank in one update, with those that fill up an interleaved schedule."""

    packed_tokens: int
    local_tokens: int
    predictions: int
    """Response tokens, over all context-parallel ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What was built and found right."""

    layout: ParallelLayout
    num_model_parameters: int
    ranks: Sequence[BuiltRank]
    critic_ranks: Sequence[BuiltRank]
    """Empty without a critic."""

    batch: BatchShapes
    refit_bytes: int
    """That one rank receives or copies at each update of an engine; 0 where it has no weights."""

    num_copies: int


def dry_run(config: TrainConfig, *, world_size: int) -> DryRun:
    """Check a recipe on a number of ranks as far as that goes without them, and print the result.

    Raises:
        ConfigError: It cannot run; names the key.
    """
    start = time.monotonic()
    check_train_config(config, world_size=world_size)
    model = find_architecture(config.model.path)
    workload = read_workload(config, model.spec, world_size=world_size)
    found = _check(config, workload)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT_BYTES / _MIB
    console = Console()
    console.print(Text(f"{model.origin}, {found.num_model_parameters:,} parameters"))
    console.print(Text(f"{found.layout}, {world_size} ranks"))
    console.print(_table(found))
    console.print(Text(_notes(found)))
    console.print(Text(f"{time.monotonic() - start:.1f} s, {peak:,.0f} MiB at the peak"))
    return found


def _check(config: TrainConfig, workload: Workload) -> DryRun:
    layout, spec = workload.layout, workload.spec
    critic_ranks = [] if workload.critic is None else _build_ranks(config, workload.of_critic())
    num_copies, refit_bytes = _check_refit(workload)
    return DryRun(
        layout=layout,
        num_model_parameters=model_parameters(spec),
        ranks=_build_ranks(config, workload),
        critic_ranks=critic_ranks,
        batch=_check_batch(config, workload),
        refit_bytes=refit_bytes,
        num_copies=num_copies,
    )


def _build_ranks(config: TrainConfig, workload: Workload) -> list[BuiltRank]:
    _check_total(workload)
    return [build_rank(config, workload, rank) for rank in _distinct_ranks(workload.layout)]


def _distinct_ranks(layout: ParallelLayout) -> list[int]:
    """First and last of each stage's tensor- and expert-parallel ranks."""
    places: dict[tuple[int, int, int], int] = {}
    for rank in range(layout.world_size):
        place = layout.coordinates(rank)
        is_edge = place.tp in (0, layout.tp - 1) and place.ep in (0, layout.ep - 1)
        if is_edge:
            places.setdefault((place.pp, place.tp, place.ep), rank)
    return sorted(places.values())


def build_rank(config: TrainConfig, workload: Workload, rank: int) -> BuiltRank:
    """Build the modules and buffers of one rank and hold them against the weight table."""
    layout, spec = workload.layout, workload.spec
    stage = layout.coordinates(rank).pp
    kind = CriticModel if workload.has_value_head else PolicyModel
    groups = start_planned_groups(layout, rank=rank)
    try:
        with on_meta_device():
            chunks = build_chunks_of(kind, spec, groups, config.model)
            parameters = parameters_by_name(chunks)
            _check_shards(parameters, workload, rank)
            wrapped = wrap_for_training(
                chunks, groups, is_distributed=workload.is_optimizer_sharded
            )
    finally:
        close_process_groups()
    buffers = [
        buffer for chunk in wrapped for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)
    ]
    built = BuiltRank(
        rank=rank,
        stage=stage,
        num_parameters=sum(parameter.numel() for parameter in parameters.values()),
        buffer_elements=sum(buffer.numel for buffer in buffers),
    )
    check_planned(built, workload)
    return built


def _check_shards(parameters: dict[str, torch.nn.Parameter], workload: Workload, rank: int) -> None:
    """The parameters of a rank are the shards that the weight table gives it, all of them."""
    expected = {
        rule.megatron_name: shard_shape(rule, workload.spec, tp_size=workload.layout.tp)
        for rule in _rules_of(workload, rank)
    }
    built = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    assert built == expected, (
        f"rank {rank} holds other parameters than the weight table gives it: "
        f"{sorted(built.items() ^ expected.items())[:4]}"
    )


def _rules(workload: Workload) -> list[Rule]:
    """Of the whole model."""
    spec = workload.spec
    if workload.has_value_head:
        return [*rules_for_body(spec), value_head_rule(spec)]
    return list(rules_for_model(spec))


def _rules_of(workload: Workload, rank: int) -> list[Rule]:
    spec, layout = workload.spec, workload.layout
    place = layout.coordinates(rank)
    rules = _rules(workload)
    if spec.tie_word_embeddings and layout.pp > 1:
        rules.append(tied_output_rule(spec))
    experts = spec.experts.num_experts // layout.ep if spec.experts is not None else 0
    return [
        rule
        for rule in rules
        if chunk_of(rule, spec, layout)[0] == place.pp
        and (rule.expert is None or rule.expert // experts == place.ep)
    ]


def check_planned(built: BuiltRank, workload: Workload) -> None:
    """The planner counts what was built."""
    holding = stage_holdings(
        workload.spec,
        workload.layout,
        is_sharded=workload.is_optimizer_sharded,
        has_value_head=workload.has_value_head,
    )[built.stage]
    assert (built.num_parameters, built.buffer_elements) == (holding.parameters, holding.buffer), (
        f"rank {built.rank} holds {built.num_parameters:,} parameters in buffers of "
        f"{built.buffer_elements:,}, the planner says {holding.parameters:,} and {holding.buffer:,}"
    )


def _check_total(workload: Workload) -> None:
    """One replica's ranks, put together, hold every parameter of the model once."""
    spec, layout, total = workload.spec, workload.layout, 0
    for rule in _rules(workload):
        size = math.prod(shard_shape(rule, spec, tp_size=layout.tp))
        if rule.cut is Cut.REPLICATED:
            total += size
        else:
            padding = 0
            if rule.cut is Cut.VOCABULARY_ROWS:
                padding = (spec.padded_vocab_size(layout.tp) - spec.vocab_size) * spec.hidden_size
            total += size * layout.tp - padding
    expected = model_parameters(spec, has_value_head=workload.has_value_head)
    assert total == expected, f"the ranks hold {total:,} parameters, the model has {expected:,}"


def _check_batch(config: TrainConfig, workload: Workload) -> BatchShapes:
    """Lay the largest micro-batch out for the first and the last context-parallel rank."""
    layout, lengths = workload.layout, workload.longest
    rows = update_rows(workload, lengths)
    largest = max(rows, key=lambda row: row.tokens)
    segments = _segments(largest, lengths)
    sizes = set()
    for cp_rank in {0, layout.cp - 1}:
        plan = plan_sequences(
            segments,
            cp=layout.cp,
            cp_rank=cp_rank,
            multiple=row_multiple(layout, config.model.fp8),
            device=torch.device("cpu"),
        )
        sizes.add(len(plan.token_index))
    assert len(sizes) == 1, f"context-parallel ranks hold unequal numbers of tokens: {sizes}"
    count = len(rows)
    if layout.vpp > 1:
        count = -(-count // layout.pp) * layout.pp
    return BatchShapes(
        num_micro_batches=count,
        packed_tokens=largest.tokens,
        local_tokens=sizes.pop(),
        predictions=largest.responses,
    )


def _segments(row: Row, lengths: Lengths) -> list[Segment]:
    segments: list[Segment] = []
    for samples in row.runs:
        if samples == 1:
            segments.append(Segment(num_tokens=lengths.prompt + lengths.response))
            continue
        prompt = len(segments)
        segments.append(Segment(num_tokens=lengths.prompt))
        segments += [Segment(num_tokens=lengths.response, continues=prompt)] * samples
    return segments


def _check_refit(workload: Workload) -> tuple[int, int]:
    """Copies and bytes that give one rank the whole model."""
    if workload.rollout.engine == "megatron":
        return 0, 0
    layout, spec = workload.layout, workload.spec
    # One replica of the model: its ranks are all that a rank receives from.
    replica = ParallelLayout(
        world_size=layout.tp * layout.pp * math.lcm(layout.cp, layout.ep),
        tp=layout.tp,
        pp=layout.pp,
        vpp=layout.vpp,
        cp=layout.cp,
        ep=layout.ep,
        sequence_parallel=layout.sequence_parallel,
    )
    copies = plan_copies(
        source_tensors(spec, replica), replica, element_bytes=workload.element_bytes, targets=[0]
    )
    received = sum(copy.num_bytes for copy in copies)
    expected = model_parameters(spec) * workload.element_bytes
    assert received == expected, f"a refit moves {received:,} bytes, the model has {expected:,}"
    return len(copies), received


def _table(found: DryRun) -> Table:
    table = Table("stage", "rank built", "parameters", "gradient elements", title="ranks")
    for what, ranks in (("", found.ranks), (" (critic)", found.critic_ranks)):
        for one in ranks:
            table.add_row(
                f"{one.stage}{what}",
                str(one.rank),
                f"{one.num_parameters:,}",
                f"{one.buffer_elements:,}",
            )
    return table


def _notes(found: DryRun) -> str:
    batch = found.batch
    lines = [
        f"{batch.num_micro_batches} micro-batches an update of at most {batch.packed_tokens:,} "
        f"tokens, {batch.local_tokens:,} on a rank, {batch.predictions:,} predicted",
    ]
    if found.num_copies:
        lines.append(
            f"refit: {found.num_copies:,} copies bring a rank {found.refit_bytes / 1e9:.1f} GB"
        )
    return "\n".join([*lines, "shards, buffers, batch and refit are right"])
