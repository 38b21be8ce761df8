"""Compute what a refit of large models moves over which link, and how long that should take.

    python tools/plan_refit.py --record tests/records/refit_plan.json
    python tools/plan_refit.py --list Llama-3.1-8B-Instruct     # every copy of one rank

Nothing is measured. Rows of ``vllm_colocated`` count the copies of the refit plan for the busiest
rank, whose bytes come from its own memory, from its node and from other nodes, one after the other.
Rows of ``vllm_server`` are broadcasts: the model leaves its senders once and enters each node of
servers once, whatever their number, an equal share by each sender's network adapter; within the
node it is passed on. Rates are those of data sheets times the shares of them that
the planner assumes; a copy within memory reads and writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.hardware import ACCELERATORS
from megatron_longrlvr.planner.parameters import model_parameters
from megatron_longrlvr.planner.rates import LINK, MEMORY
from megatron_longrlvr.refit.plan import Copy, format_plan, plan_copies
from megatron_longrlvr.refit.sources import source_tensors

DEVICE = "h100"
GPUS_OF_NODE = 8
ELEMENT_BYTES = 2  # bf16
GIGA = 1e9
MODELS = {
    "Llama-3.1-8B-Instruct": ({"tp": 8}, {"tp": 2, "pp": 2}),
    "Llama-3.1-70B-Instruct": ({"tp": 8}, {"tp": 8, "pp": 2}, {"tp": 8, "pp": 4}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One refit, for the rank that takes longest."""

    model: str
    engine: str
    trainer: str
    own_gb: float
    """Copied within the rank's memory."""

    node_gb: float
    """From other ranks of its node."""

    network_gb: float
    """From other nodes."""

    largest_link_gb: float
    """From the one rank that sends it most."""

    expected_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table, or every copy of one plan, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, help="write the table here")
    parser.add_argument("--list", choices=sorted(MODELS), help="print the copies into rank 0")
    parser.add_argument("--tp", type=int, default=8, help="of the listed plan")
    parser.add_argument("--pp", type=int, default=1, help="of the listed plan")
    parsed = parser.parse_args(arguments)
    if parsed.list:
        print(format_plan(copies_of(parsed.list, {"tp": parsed.tp, "pp": parsed.pp}, targets=[0])))
        return 0
    rows = table()
    print("| model | engine | trainer | own memory | node | network | largest link | expected |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        sizes = (row.own_gb, row.node_gb, row.network_gb, row.largest_link_gb)
        cells = [row.model, row.engine, row.trainer, *(f"{size:.1f} GB" for size in sizes)]
        print("| " + " | ".join([*cells, f"{row.expected_s:.2f} s"]) + " |")
    if parsed.record is not None:
        header = record_header("bytes and seconds of a refit on h100 nodes of 8; computed")
        content = {**header, "rows": [asdict(row) for row in rows]}
        parsed.record.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def table() -> list[Row]:
    """All rows."""
    return [
        row
        for model, layouts in MODELS.items()
        for row in (
            *(colocated(model, degrees) for degrees in layouts),
            *(broadcast(model, senders) for senders in (1, GPUS_OF_NODE)),
        )
    ]


def copies_of(
    model: str, degrees: dict[str, int], *, targets: Sequence[int] | None = None
) -> list[Copy]:
    """The plan of one replica."""
    spec = find_architecture(model).spec
    layout = ParallelLayout(world_size=degrees["tp"] * degrees.get("pp", 1), **degrees)
    return plan_copies(
        source_tensors(spec, layout), layout, element_bytes=ELEMENT_BYTES, targets=targets
    )


def colocated(model: str, degrees: dict[str, int]) -> Row:
    """An engine on the ranks of the trainer."""
    links: defaultdict[int, Counter[int]] = defaultdict(Counter)
    # The tensor-parallel ranks of a stage are alike.
    firsts = range(0, degrees["tp"] * degrees.get("pp", 1), degrees["tp"])
    for copy in copies_of(model, degrees, targets=firsts):
        links[copy.target_rank][copy.source_rank] += copy.num_bytes
    rows = [_colocated_rank(model, degrees, target, sources) for target, sources in links.items()]
    return max(rows, key=lambda row: row.expected_s)


def _colocated_rank(model: str, degrees: dict[str, int], target: int, sources: Counter[int]) -> Row:
    own = sources[target]
    others = {source: size for source, size in sources.items() if source != target}
    node = sum(size for source, size in others.items() if _node(source) == _node(target))
    network = sum(others.values()) - node
    trainer = ", ".join(f"{axis}={degree}" for axis, degree in degrees.items())
    return _row(
        model=model,
        engine="vllm_colocated",
        trainer=trainer,
        own=own,
        node=node,
        network=network,
        largest_link=max(others.values()),
    )


def broadcast(model: str, senders: int) -> Row:
    """Any number of servers on other nodes than the trainer's."""
    size = model_parameters(find_architecture(model).spec) * ELEMENT_BYTES
    return _row(
        model=model,
        engine="vllm_server",
        trainer=f"{senders} senders" if senders > 1 else "1 sender",
        own=size,  # out of the received buckets
        node=size - size // senders,
        network=size // senders,
        largest_link=size // senders,
    )


def _row(
    *, model: str, engine: str, trainer: str, own: int, node: int, network: int, largest_link: int
) -> Row:
    device = ACCELERATORS[DEVICE]
    seconds = (
        2 * own / (device.memory_gb_per_s * MEMORY)
        + node / (device.node_gb_per_s * LINK)
        + network / (device.network_gb_per_s * LINK)
    ) / GIGA
    return Row(
        model=model,
        engine=engine,
        trainer=trainer,
        own_gb=round(own / GIGA, 2),
        node_gb=round(node / GIGA, 2),
        network_gb=round(network / GIGA, 2),
        largest_link_gb=round(largest_link / GIGA, 2),
        expected_s=round(seconds, 3),
    )


def _node(rank: int) -> int:
    return rank // GPUS_OF_NODE


if __name__ == "__main__":
    sys.exit(main())
