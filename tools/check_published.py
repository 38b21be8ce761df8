"""Compare the planner's time model with published throughput, row by row, misses included.

    python tools/check_published.py --output tests/records/published_throughput.json

Each row is a published pre-training run with its layout; the same arithmetic that plans an update
predicts model TFLOP/s per GPU, with the overlap and fused kernels that those runs have
(``rates.OVERLAPPED``). A rate counts as predicted within 25 %. The constants in ``rates.py`` were
chosen with most of these rows in view: those say how well a handful of numbers describes many
layouts. The rows marked unseen were added afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from megatron_longrlvr.model.expert_spec import ExpertSpec
from megatron_longrlvr.model.flops import FORWARD_AND_BACKWARD, Work, causal_pairs, forward_flops
from megatron_longrlvr.model.rope_spec import RopeSpec
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner import rates
from megatron_longrlvr.planner.compute import Machine, pipeline_s, reduction_s
from megatron_longrlvr.planner.hardware import parse_cluster
from megatron_longrlvr.planner.packing import Row
from megatron_longrlvr.planner.parameters import stage_holdings

WITHIN = 0.25
_NEMO_LONG = "NVIDIA NeMo docs, performance_long_sequence.md (NeMo 24.03)"
_BRIDGE = "NVIDIA Megatron-Bridge docs, performance-summary-archive.md"

_EXPERT_WIDTHS = {"qwen3-30b-a3b": 768, "qwen3-235b-a22b": 1536}


def _model(name: str) -> ModelSpec:
    hidden, ffn, layers, heads, kv_heads, vocab = {
        "llama2-7b": (4096, 11008, 32, 32, 32, 32000),
        "llama3-70b": (8192, 28672, 80, 64, 8, 128256),
        "llama3.1-405b": (16384, 53248, 126, 128, 8, 128256),
        "qwen3-30b-a3b": (2048, 6144, 48, 32, 4, 151936),
        "qwen3-235b-a22b": (4096, 12288, 94, 64, 4, 151936),
        # GPT's two matrices of 4 H as three of 8/3 H: the same products.
        "gpt3-175b": (12288, 32768, 96, 96, 96, 51200),
    }[name]
    experts = None
    if name in _EXPERT_WIDTHS:
        experts = ExpertSpec(
            num_experts=128,
            num_per_token=8,
            intermediate_size=_EXPERT_WIDTHS[name],
            normalize_weights=True,
        )
    return ModelSpec(
        architecture="LlamaForCausalLM" if experts is None else "Qwen3MoeForCausalLM",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        norm_eps=1e-5,
        tie_word_embeddings=False,
        qkv_bias=False,
        qk_norm=False,
        rope=RopeSpec(kind="default", theta=5e5),
        max_position_embeddings=2**21,
        initializer_range=0.02,
        experts=experts,
    )


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a vendor's table."""

    source: str
    model: str
    cluster: str
    sequence: int
    sequences_per_rank: int
    """Micro-batches of a data-parallel rank, of one sequence each."""

    tflops: float
    tp: int = 1
    pp: int = 1
    cp: int = 1
    vpp: int = 1
    ep: int = 1
    is_fp8: bool = True
    counts_full_attention: bool = False
    """Whether the source's model FLOPs take attention as if it were not causal."""

    is_unseen: bool = False
    """Whether it was added after the constants were chosen."""

    note: str = ""


def _long(sequence_k: int, gpus: int, tflops: float, **layout: int) -> Published:
    return Published(
        source=_NEMO_LONG,
        model="llama2-7b",
        cluster=f"h100:{min(gpus, 8)}x{max(gpus // 8, 1)}",
        sequence=sequence_k * 1024,
        sequences_per_rank=8,
        tflops=tflops,
        counts_full_attention=True,
        note="number of micro-batches not published, 8 assumed",
        **layout,
    )


ROWS = (
    _long(4, 4, 768),
    _long(8, 8, 730, pp=2),
    _long(16, 16, 660, tp=2),
    _long(32, 32, 610, tp=2, cp=2),
    _long(64, 64, 574, tp=4, cp=2),
    _long(128, 128, 555, tp=4, cp=4),
    _long(256, 256, 549, tp=4, cp=8),
    _long(512, 512, 549, tp=8, cp=16),
    _long(1024, 1024, 536, tp=8, cp=32),
    Published(
        source=f"{_BRIDGE} (25.09)", model="llama3-70b", cluster="h100:8x8", sequence=8192,
        sequences_per_rank=64, tflops=727, tp=4, pp=8, vpp=5
    ),
    Published(
        source=f"{_BRIDGE} (25.11)", model="llama3-70b", cluster="h100:8x8", sequence=8192,
        sequences_per_rank=64, tflops=719, tp=4, pp=8, vpp=5,
    ),
    Published(
        source=f"{_BRIDGE} (26.02)", model="llama3-70b", cluster="h100:8x8", sequence=8192,
        sequences_per_rank=128, tflops=728, tp=4, pp=8, vpp=5,
    ),
    Published(
        source=f"{_BRIDGE} (25.09)", model="llama3-70b", cluster="gb200:64x1", sequence=8192,
        sequences_per_rank=16, tflops=1593, tp=2, pp=4, vpp=5,
    ),
    Published(
        source=f"{_BRIDGE} (25.09)", model="llama3.1-405b", cluster="h100:8x128", sequence=8192,
        sequences_per_rank=64, tflops=763, tp=8, pp=8, cp=2, vpp=8,
        note="126 layers do not divide by 64 chunks: planned as 128",
    ),
    Published(
        source=f"{_BRIDGE} (26.02)", model="llama3.1-405b", cluster="h100:8x128", sequence=8192,
        sequences_per_rank=192, tflops=784, tp=8, pp=8, cp=2, vpp=8,
        note="126 layers do not divide by 64 chunks: planned as 128",
    ),
    Published(
        source=f"{_BRIDGE} (25.09)", model="llama3.1-405b", cluster="b200:8x16", sequence=8192,
        sequences_per_rank=32, tflops=1676, tp=4, pp=8, cp=2, vpp=8,
        note="126 layers do not divide by 64 chunks: planned as 128",
    ),
    Published(
        source=f"{_BRIDGE} (25.11)", model="llama3.1-405b", cluster="gb200:64x4", sequence=8192,
        sequences_per_rank=384, tflops=2053, tp=4, pp=16, vpp=4,
        note="126 layers do not divide by 64 chunks: planned as 128",
    ),
    Published(
        source=f"{_BRIDGE} (25.11)", model="qwen3-30b-a3b", cluster="h100:8x2", sequence=4096,
        sequences_per_rank=64, tflops=121, pp=2, vpp=24, ep=8
    ),
    Published(
        source=f"{_BRIDGE} (26.02)", model="qwen3-30b-a3b", cluster="h100:8x2", sequence=4096,
        sequences_per_rank=128, tflops=118, pp=2, vpp=12, ep=8,
    ),
    Published(
        source=f"{_BRIDGE} (25.11)", model="qwen3-235b-a22b", cluster="h100:8x32", sequence=4096,
        sequences_per_rank=128, tflops=233, tp=2, pp=8, vpp=4, ep=16, is_unseen=True,
        note="94 layers planned as 96, and whole experts on 32 ranks as halves on 16 x 2",
    ),
    Published(
        source=f"{_BRIDGE} (26.02)", model="qwen3-235b-a22b", cluster="h100:8x32", sequence=4096,
        sequences_per_rank=512, tflops=242, tp=2, pp=8, vpp=4, ep=16, is_unseen=True,
        note="94 layers planned as 96, and whole experts on 32 ranks as halves on 16 x 2",
    ),
    Published(
        source=f"{_BRIDGE} (25.11)", model="llama3.1-405b", cluster="h100:8x128", sequence=8192,
        sequences_per_rank=64, tflops=737, tp=8, pp=8, cp=2, vpp=8, is_unseen=True,
        note="126 layers do not divide by 64 chunks: planned as 128",
    ),
    Published(
        source="Megatron-LM README: GPT-3 175B on 96 H100, 47 % of the bf16 peak",
        model="gpt3-175b", cluster="h100:8x12", sequence=4096, sequences_per_rank=384,
        tflops=465, tp=4, pp=8, vpp=6, is_fp8=False, counts_full_attention=True,
        note="layout not published, that of NeMo's recipe assumed",
    ),
)  # fmt: skip


def predict(row: Published) -> float:
    """Model TFLOP/s per GPU, as the row's source counts them."""
    cluster = parse_cluster(row.cluster)
    spec = _model(row.model)
    chunks = row.pp * row.vpp
    spec = replace(spec, num_layers=-(-spec.num_layers // chunks) * chunks)
    layout = ParallelLayout(
        world_size=cluster.gpus,
        tp=row.tp,
        pp=row.pp,
        vpp=row.vpp,
        cp=row.cp,
        ep=row.ep,
        sequence_parallel=row.tp > 1,
    )
    practice = replace(rates.OVERLAPPED, is_fp8=row.is_fp8)
    machine = Machine(spec=spec, layout=layout, cluster=cluster, practice=practice)
    work = Work(tokens=row.sequence, pairs=causal_pairs(row.sequence), predictions=row.sequence)
    micro_batch = Row(runs=(1,), tokens=row.sequence, responses=row.sequence, work=work)
    seconds = pipeline_s(
        machine.stage_pass(micro_batch, "none"),
        num_rows=row.sequences_per_rank,
        layout=layout,
        message_s=0.0,
    )
    holding = max(stage_holdings(spec, layout, is_sharded=True), key=lambda one: one.parameters)
    seconds += reduction_s(
        machine, holding.dense, holding.experts, gradient_bytes=2, weight_bytes=2
    )
    counted = work
    if row.counts_full_attention:
        counted = replace(work, pairs=row.sequence**2)
    flops = forward_flops(_model(row.model), counted) * FORWARD_AND_BACKWARD
    return flops * row.sequences_per_rank * layout.dp / (seconds * cluster.gpus) / 1e12


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the record here")
    parsed = parser.parse_args(arguments)
    rows = []
    for row in ROWS:
        predicted = predict(row)
        error = predicted / row.tflops - 1
        verdict = "within" if abs(error) <= WITHIN else "MISS"
        print(
            f"{row.model:14} {row.cluster:11} {row.sequence:8,} tp={row.tp} pp={row.pp} "
            f"cp={row.cp} ep={row.ep}  {row.tflops:6.0f} published, {predicted:6.0f} predicted "
            f"{error:+.0%} {verdict}{' (unseen)' if row.is_unseen else ''}"
        )
        rows.append(
            {
                **asdict(row),
                "predicted_tflops": round(predicted, 1),
                "error": round(error, 3),
                "is_within": abs(error) <= WITHIN,
            }
        )
    within = sum(row["is_within"] for row in rows)
    print(f"{within} of {len(rows)} rows are within {WITHIN:.0%}")
    if parsed.output is not None:
        header = record_header("model TFLOP/s per GPU, published and predicted; computed")
        parsed.output.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
