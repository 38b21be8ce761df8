"""What autograd keeps, counted on real layouts with saved-tensor hooks, beside the planner's count.

A case is a tiny model in a layout. Its micro-batches run through megatron-core's own schedule,
forward and backward; a storage counts once while anything saved lies in it, weights never do.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.algorithms.value_loss import ValueLossInput, value_loss
from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.build import build_chunks_of
from megatron_longrlvr.model.critic_model import CriticModel
from megatron_longrlvr.model.expert_spec import ExpertSpec
from megatron_longrlvr.model.local_batch import localize
from megatron_longrlvr.model.optimizer import wrap_for_training
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.rope_spec import RopeSpec
from megatron_longrlvr.model.schedule import LogprobSettings, run_micro_batches, run_pipeline
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.memory import kept_activation_bytes
from megatron_longrlvr.planner.packing import Row, pack_groups
from megatron_longrlvr.planner.workload import Lengths, Rollout, Workload
from megatron_longrlvr.stages import MicroBatch, Segment

OPTIONS = ("none", "selective", "full")
LENGTHS = Lengths(prompt=192, response=32)
GROUP_SIZE = 4
VOCAB_SIZE = 128
CHUNK_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layout of one tiny model."""

    name: str
    layout: dict = field(default_factory=dict)
    model: str = "llama"
    dtype: str = "bf16"
    num_groups: int = 1
    is_shared: bool = True
    is_critic: bool = False

    @property
    def world_size(self) -> int:
        tp, pp, cp, ep = (self.layout.get(axis, 1) for axis in ("tp", "pp", "cp", "ep"))
        return tp * pp * max(cp, ep)


_SP = {"sequence_parallel": True}
CASES = (
    Case(name="one rank"),
    Case(name="one rank, fp32", dtype="fp32"),
    Case(name="one rank, prompt repeated", is_shared=False),
    Case(name="tp=2", layout={"tp": 2}),
    Case(name="tp=2, sequence parallel", layout={"tp": 2, **_SP}),
    Case(name="cp=2", layout={"cp": 2}),
    Case(name="pp=2", layout={"pp": 2}, num_groups=4),
    Case(name="pp=2, vpp=2", layout={"pp": 2, "vpp": 2}, num_groups=4),
    Case(name="tp=2, cp=2, sequence parallel", layout={"tp": 2, "cp": 2, **_SP}, model="qwen3"),
    Case(name="tp=2, pp=2, sequence parallel", layout={"tp": 2, "pp": 2, **_SP}, num_groups=3),
    Case(name="experts, ep=2", layout={"ep": 2}, model="experts"),
    Case(
        name="experts, tp=2, ep=2, sequence parallel",
        layout={"tp": 2, "ep": 2, **_SP},
        model="experts",
    ),
)


CRITIC_CASES = (
    Case(name="critic, tp=2, sequence parallel", layout={"tp": 2, **_SP}, is_critic=True),
    Case(name="critic, pp=2", layout={"pp": 2}, num_groups=4, is_critic=True),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bytes on one rank."""

    stage: int
    planned: float
    counted: int


class _Storages:
    """Storages that something saved lies in, and their most bytes at one time."""

    def __init__(self, ignored: set[int]) -> None:
        self._ignored = ignored
        self._uses: Counter[int] = Counter()
        self.live = 0
        self.peak = 0

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._ignored:
            return
        self._uses[key] += 1
        if self._uses[key] == 1:
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def drop(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._ignored:
            return
        self._uses[key] -= 1
        if self._uses[key] == 0:
            self.live -= storage.nbytes()


class _Saved:
    """A saved tensor, for as long as the graph needs it."""

    def __init__(self, tensor: Tensor, storages: _Storages) -> None:
        self.tensor, self._storages = tensor, storages
        storages.add(tensor)

    def __del__(self) -> None:
        self._storages.drop(self.tensor)


def compare(_rank: int, world_size: int, case: Case, recompute: str) -> Comparison:
    """Count on this rank, and plan for it."""
    spec = tiny_spec(case.model)
    layout = ParallelLayout(world_size=world_size, **case.layout)
    groups = start_process_groups(layout, seed=0)
    model = ModelConfig(
        path="-", dtype=case.dtype, recompute=recompute, logprob_chunk_tokens=CHUNK_TOKENS
    )
    chunks = build_chunks_of(CriticModel if case.is_critic else PolicyModel, spec, groups, model)
    for chunk in chunks:
        for parameter in chunk.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    rows = _rows(case)
    batches = [
        localize(
            _micro_batch(row, case),
            spec=spec,
            layout=layout,
            cp_rank=groups.cp_rank,
            cp_group=groups.cp,
            multiple=layout.sequence_multiple,
            device=torch.device("cpu"),
        )
        for row in rows
    ]
    wrapped = wrap_for_training(chunks, groups, is_distributed=True)
    counted = _count(wrapped, batches, is_critic=case.is_critic)
    workload = _workload(case, spec, layout, recompute)
    planned = kept_activation_bytes(workload, rows, groups.pp_rank)
    return Comparison(stage=groups.pp_rank, planned=planned, counted=counted)


def _count(wrapped: Sequence[torch.nn.Module], batches: list, *, is_critic: bool) -> int:
    storages = _Storages(
        {
            parameter.untyped_storage().data_ptr()
            for chunk in wrapped
            for parameter in chunk.parameters()
        }
    )
    settings = LogprobSettings(vocab_size=VOCAB_SIZE, temperature=1.0, chunk_tokens=CHUNK_TOKENS)

    def objective(_index, _batch, logprobs: Tensor, _entropy: Tensor):
        loss = logprobs.sum()
        return loss, {"loss": loss.detach()}

    def regression(_index, _batch, chunk: CriticModel, hidden: Tensor):
        values = chunk.values(hidden)
        aims = [torch.full_like(values, number).detach() for number in (0.1, 1.0, 0.01)]
        inputs = ValueLossInput(
            values=values, old_values=aims[0], returns=aims[1], loss_weights=aims[2]
        )
        loss, _ = value_loss(inputs, clip=0.2)
        return loss, {"loss": loss.detach()}

    def run() -> None:
        if is_critic:
            run_pipeline(wrapped, batches, regression, forward_only=False)
        else:
            run_micro_batches(wrapped, batches, objective, settings=settings, forward_only=False)

    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Saved(tensor, storages), lambda saved: saved.tensor
    ):
        run()
    return storages.peak


def tiny_spec(model: str, *, tie_word_embeddings: bool = False) -> ModelSpec:
    """llama, qwen3 (norms of q and k) or experts; widths of 64 and its multiples."""
    experts = None
    if model == "experts":
        experts = ExpertSpec(
            num_experts=4, num_per_token=2, intermediate_size=80, normalize_weights=True
        )
    architecture = {
        "llama": "LlamaForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "experts": "Qwen3MoeForCausalLM",
    }[model]
    return ModelSpec(
        architecture=architecture,
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=160,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        norm_eps=1e-6,
        tie_word_embeddings=tie_word_embeddings,
        qkv_bias=False,
        qk_norm=model != "llama",
        rope=RopeSpec(kind="default", theta=1e4),
        max_position_embeddings=4096,
        initializer_range=0.02,
        experts=experts,
    )


def _rows(case: Case) -> list[Row]:
    group = LENGTHS.prompt + GROUP_SIZE * LENGTHS.response
    return pack_groups(
        case.num_groups,
        LENGTHS,
        group_size=GROUP_SIZE,
        budget=group,
        shared_prompt=case.is_shared,
    )


def _micro_batch(row: Row, case: Case) -> MicroBatch:
    if case.is_shared:
        segments = [Segment(num_tokens=LENGTHS.prompt)]
        segments += [Segment(num_tokens=LENGTHS.response, continues=0)] * GROUP_SIZE
        is_response = [False] * LENGTHS.prompt + [True] * (GROUP_SIZE * LENGTHS.response)
    else:
        whole = LENGTHS.prompt + LENGTHS.response
        samples = row.tokens // whole
        segments = [Segment(num_tokens=whole)] * samples
        is_response = ([False] * LENGTHS.prompt + [True] * LENGTHS.response) * samples
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(0, VOCAB_SIZE, (row.tokens,), generator=generator)
    return replace(
        unlearned_row(token_ids.tolist(), num_given=LENGTHS.prompt),
        segments=segments,
        is_response=torch.tensor(is_response),
    )


def _workload(case: Case, spec: ModelSpec, layout: ParallelLayout, recompute: str) -> Workload:
    return Workload(
        spec=spec,
        layout=layout,
        longest=LENGTHS,
        typical=LENGTHS,
        rollout=Rollout(
            engine="megatron",
            prompts_per_step=case.num_groups * layout.dp,
            group_size=GROUP_SIZE,
            tensor_parallel=layout.tp,
            memory_share=0.5,
            kv_cache_gib=None,
            max_concurrent_samples=1,
            is_eager=True,
            sleep_level=0,
            bucket_bytes=0,
        ),
        element_bytes=2 if case.dtype == "bf16" else 4,
        recompute=recompute,
        shared_prompt=case.is_shared,
        micro_batch_tokens=LENGTHS.prompt + GROUP_SIZE * LENGTHS.response,
        logprob_chunk_tokens=CHUNK_TOKENS,
        updates_per_step=1,
        is_proximal_recomputed=True,
        has_reference=False,
        is_optimizer_sharded=True,
        host_frac=0.0,
        is_fp8=False,
        is_fused=False,
        has_judge=False,
        save_every=0,
        has_value_head=case.is_critic,
    )
