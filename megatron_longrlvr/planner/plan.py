"""The plan of a recipe on a cluster: memory by term, a step's seconds by phase, and what it costs.

Nothing here was measured on the cluster: memory is counted, time is arithmetic with the shares of
peak rates in :mod:`megatron_longrlvr.planner.rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.flops import (
    FORWARD,
    FORWARD_AND_BACKWARD,
    NO_WORK,
    forward_flops,
    sampling_work,
)
from megatron_longrlvr.planner import parameters, rates
from megatron_longrlvr.planner.compute import Machine, pipeline_s, reduction_s
from megatron_longrlvr.planner.hardware import Cluster
from megatron_longrlvr.planner.memory import (
    RESERVE_FRAC,
    Engine,
    StageMemory,
    engine_memory,
    plan_memory,
)
from megatron_longrlvr.planner.packing import Row, update_rows
from megatron_longrlvr.planner.rates import OURS
from megatron_longrlvr.planner.sampling import Sampling, plan_sampling
from megatron_longrlvr.planner.workload import Workload

_GIGA = 1e9
_TERA = 1e12
_HOUR_S = 3600

PHASES = ("prefill", "decode", "judge", "logprobs", "critic", "update", "refit", "save")
"""Those of a step; ``critic`` only where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of a step."""

    name: str
    seconds: float
    formula: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a recipe takes on a cluster."""

    workload: Workload
    cluster: Cluster
    stages: Sequence[StageMemory]
    engine: Engine
    sampling: Sampling
    rows: Sequence[Row]
    """Micro-batches of a data-parallel rank in one update, at typical lengths."""

    phases: Sequence[Phase]
    train_tflop: float
    """Model FLOPs of the update alone, over all ranks, in 1e12."""

    model_tflop: float
    """Of sampling, log-probabilities, critic and update."""

    packed_tokens: int
    """Tokens that pass through the update, over all ranks; a shared prompt once."""

    @property
    def step_s(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def update_s(self) -> float:
        return next(phase.seconds for phase in self.phases if phase.name == "update")

    @property
    def peak_gib(self) -> float:
        return max(stage.peak_gib for stage in self.stages)

    @property
    def limit_gib(self) -> float:
        """Memory that may be planned with."""
        return self.cluster.accelerator.memory_gib * (1 - RESERVE_FRAC)

    @property
    def mfu(self) -> float:
        """Model FLOPs of a whole step over what the GPUs could have done."""
        peak = self.cluster.accelerator.bf16_tflops * self.cluster.gpus
        return self.model_tflop / (self.step_s * peak)

    @property
    def update_mfu(self) -> float:
        peak = self.cluster.accelerator.bf16_tflops * self.cluster.gpus
        return self.train_tflop / (self.update_s * peak)

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Tokens through the update per second of the whole step."""
        return self.packed_tokens / self.step_s / self.cluster.gpus

    def step_cost(self, price_per_gpu_hour: float) -> float:
        """Cost of a step, in the unit of the price."""
        return self.step_s * self.cluster.gpus * price_per_gpu_hour / _HOUR_S

    def problems(self) -> list[str]:
        """Why the recipe cannot run there; each opens with the key to change."""
        return [*_memory_problems(self), *_engine_problems(self)]


def make_plan(workload: Workload, cluster: Cluster) -> Plan:
    """Plan a step.

    Raises:
        ConfigError: The workload is for another number of ranks than the cluster has.
    """
    if workload.layout.world_size != cluster.gpus:
        raise ConfigError(
            f"the layout is for {workload.layout.world_size} ranks and {cluster} has "
            f"{cluster.gpus} GPUs"
        )
    machine = _machine(workload, cluster)
    engine = engine_memory(workload, cluster.accelerator)
    sampling = plan_sampling(workload, engine, cluster)
    rows = update_rows(workload, workload.typical)
    work = sum((row.work for row in rows), start=NO_WORK)
    num_shares = workload.layout.dp * workload.updates_per_step
    trained = forward_flops(workload.spec, work) * num_shares / _TERA
    rollout, typical = workload.rollout, workload.typical
    sampled = sampling_work(typical.prompt, [typical.response] * rollout.group_size)
    generated = forward_flops(workload.spec, sampled) * rollout.prompts_per_step / _TERA
    passes = workload.num_logprob_passes * FORWARD + FORWARD_AND_BACKWARD
    valued = 0.0
    if workload.critic is not None:
        valued = forward_flops(workload.of_critic().counted_spec, work) * num_shares / _TERA
    return Plan(
        workload=workload,
        cluster=cluster,
        stages=plan_memory(workload, cluster.accelerator),
        engine=engine,
        sampling=sampling,
        rows=rows,
        phases=_phases(machine, workload, rows, sampling),
        train_tflop=trained * FORWARD_AND_BACKWARD,
        model_tflop=trained * passes + valued * (FORWARD + FORWARD_AND_BACKWARD) + generated,
        packed_tokens=sum(row.tokens for row in rows) * num_shares,
    )


def _machine(workload: Workload, cluster: Cluster) -> Machine:
    return Machine(
        spec=workload.counted_spec,
        layout=workload.layout,
        cluster=cluster,
        practice=replace(OURS, is_fp8=workload.is_fp8, is_fused=workload.is_fused),
        element_bytes=workload.element_bytes,
    )


def _phases(
    machine: Machine, workload: Workload, rows: Sequence[Row], sampling: Sampling
) -> list[Phase]:
    layout, updates = workload.layout, workload.updates_per_step
    forward, trained = _passes_s(machine, workload, rows)
    described = f"{len(rows)} micro-batches of {rows[0].tokens:,} tokens"
    waves = f"{sampling.concurrent_samples} samples at once, {sampling.waves} waves"
    return [
        Phase(name="prefill", seconds=sampling.prefill_s, formula="each prompt once"),
        Phase(name="decode", seconds=sampling.decode_s, formula=waves),
        Phase(
            name="judge",
            seconds=rates.JUDGE_S if workload.has_judge else 0.0,
            formula="the last verdicts; others come while samples are written",
        ),
        Phase(
            name="logprobs",
            seconds=workload.num_logprob_passes * updates * forward,
            formula=f"{workload.num_logprob_passes} passes x {updates} x {described}",
        ),
        *_critic_phase(machine.cluster, workload, rows),
        Phase(
            name="update",
            seconds=updates * trained,
            formula=f"{updates} x {described}, bubble "
            f"{_bubble(layout.pp, layout.vpp, len(rows)):.0%}, recompute={workload.recompute}",
        ),
        Phase(
            name="refit",
            seconds=_refit_s(machine, workload),
            formula="gathered into every rank, cut for the engine",
        ),
        Phase(
            name="save",
            seconds=_save_s(machine, workload),
            formula=f"a checkpoint every {workload.save_every} steps, shared out over them",
        ),
    ]


def _passes_s(machine: Machine, workload: Workload, rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds of a forward pass over an update's micro-batches, and of the update."""
    layout = workload.layout
    one = machine.stage_pass(rows[0], workload.recompute)
    message = machine.message_s(rows[0])
    forward = (len(rows) + (layout.pp - 1) / layout.vpp) * (one.forward_s + message)
    trained = pipeline_s(one, num_rows=len(rows), layout=layout, message_s=message)
    return forward, trained + _finish_update_s(machine, workload)


def _critic_phase(cluster: Cluster, workload: Workload, rows: Sequence[Row]) -> list[Phase]:
    """Values before the step's first update, then as many updates as the policy's."""
    if workload.critic is None:
        return []
    critic = workload.of_critic()
    forward, trained = _passes_s(_machine(critic, cluster), critic, rows)
    seconds = workload.updates_per_step * (forward + trained)
    formula = f"{workload.updates_per_step} x values and update, recompute={critic.recompute}"
    if workload.critic.is_offloaded:
        seconds += _offload_s(cluster, critic)
        formula += ", from host memory and back"
    return [Phase(name="critic", seconds=seconds, formula=formula)]


def _offload_s(cluster: Cluster, critic: Workload) -> float:
    """Weights and optimizer state to the device and back; gradients are not kept."""
    layout, is_sharded = critic.layout, critic.is_optimizer_sharded
    holdings = parameters.stage_holdings(
        critic.spec, layout, is_sharded=is_sharded, has_value_head=True
    )
    element = critic.element_bytes
    moved = max(
        parameters.weight_bytes(one, element_bytes=element, is_sharded=is_sharded)
        + parameters.optimizer_bytes(one, layout, element_bytes=element, is_sharded=is_sharded)
        for one in holdings
    )
    return 2 * moved / (cluster.accelerator.host_gb_per_s * _GIGA * rates.LINK)


def _bubble(pp: int, vpp: int, num_rows: int) -> float:
    idle = (pp - 1) / vpp
    return idle / (num_rows + idle)


def _finish_update_s(machine: Machine, workload: Workload) -> float:
    """Reduction of gradients, AdamW, and the new weights' way back."""
    layout = workload.layout
    holdings = parameters.stage_holdings(
        workload.spec,
        layout,
        is_sharded=workload.is_optimizer_sharded,
        has_value_head=workload.has_value_head,
    )
    most = max(holdings, key=lambda holding: holding.parameters)
    state = parameters.optimizer_bytes(
        most,
        layout,
        element_bytes=workload.element_bytes,
        is_sharded=workload.is_optimizer_sharded,
    )
    rate = machine.cluster.accelerator.memory_gb_per_s * _GIGA * rates.MEMORY
    # State is read and written; gradients, which it is a part of, are read some three times.
    adamw = (2 * state + 3 * parameters.gradient_bytes(most)) / rate
    reduction = reduction_s(
        machine,
        most.dense,
        most.experts,
        gradient_bytes=4,
        weight_bytes=workload.element_bytes,
    )
    return adamw + reduction


def _refit_s(machine: Machine, workload: Workload) -> float:
    if workload.rollout.engine == "megatron":
        return 0.0
    layout, cluster = workload.layout, machine.cluster
    total = parameters.model_parameters(workload.spec) * workload.element_bytes
    own_stage = total / layout.pp
    # Within a stage from the other tensor- and expert-parallel ranks, else from the other stages.
    holdings = parameters.stage_holdings(
        workload.spec, layout, is_sharded=workload.is_optimizer_sharded
    )
    held = sum(one.parameters for one in holdings) * workload.element_bytes / layout.pp
    within = max(own_stage - held, 0.0)
    across = total - own_stage
    rate = _GIGA * rates.LINK
    seconds = within / (cluster.link_gb_per_s(layout.tp * layout.ep) * rate)
    if across:
        seconds += across / (cluster.link_gb_per_s(layout.world_size) * rate)
    loaded = 2 * total / (cluster.accelerator.memory_gb_per_s * _GIGA * rates.MEMORY)
    return seconds + loaded


def _save_s(machine: Machine, workload: Workload) -> float:
    if workload.save_every == 0:
        return 0.0
    size = _checkpoint_bytes(workload)
    if workload.critic is not None:
        size += _checkpoint_bytes(workload.of_critic())
    seconds = size / (machine.cluster.nodes * rates.FILE_GB_PER_S * _GIGA)
    return seconds / workload.save_every


def _checkpoint_bytes(workload: Workload) -> int:
    """Weights and optimizer state."""
    count = parameters.model_parameters(workload.spec, has_value_head=workload.has_value_head)
    return count * (workload.element_bytes + (12 if workload.element_bytes < 4 else 8))


def _memory_problems(plan: Plan) -> list[str]:
    found = []
    device = plan.cluster.accelerator
    worst = max(plan.stages, key=lambda stage: stage.training_gib)
    limit = f"{plan.limit_gib:.1f} GiB of {device.name} ({RESERVE_FRAC:.0%} kept free)"
    resident = sum(term.gib for term in worst.resident)
    critic = plan.workload.critic
    offload = ""
    if critic is not None and not critic.is_offloaded:
        offload = ", or critic.offload=true"
    if resident > plan.limit_gib:
        found.append(
            f"layout.tp={plan.workload.layout.tp}, layout.pp={plan.workload.layout.pp}: weights, "
            f"gradients and optimizer take {resident:.1f} GiB on a rank, above the {limit}; "
            f"use more of either, or more ranks{offload}"
        )
    elif worst.training_gib > plan.limit_gib:
        largest = max(worst.training, key=lambda term: term.gib)
        found.append(
            f"{_training_key(plan)}: training takes {worst.training_gib:.1f} GiB on stage "
            f"{worst.stage}, above the {limit}; most of it is {largest.name}, "
            f"{largest.gib:.1f} GiB"
        )
    valuing = max(stage.critic_gib for stage in plan.stages)
    if critic is not None and valuing > plan.limit_gib and resident <= plan.limit_gib:
        found.append(
            f"critic.recompute={critic.recompute}: the critic and what the policy keeps take "
            f"{valuing:.1f} GiB while it learns, above the {limit}"
        )
    sampling = max(stage.sampling_gib for stage in plan.stages)
    if sampling > plan.limit_gib and resident <= plan.limit_gib:
        key = (
            "rollout.max_concurrent_samples"
            if plan.workload.rollout.engine == "megatron"
            else "rollout.vllm.memory_share"
        )
        found.append(
            f"{key}: the engine and what the learner keeps take {sampling:.1f} GiB while sampling, "
            f"above the {limit}; lower it{offload}"
        )
    return found


def _training_key(plan: Plan) -> str:
    workload = plan.workload
    if workload.recompute != "full":
        return f"model.recompute={workload.recompute}"
    if workload.layout.cp < workload.layout.world_size // (workload.layout.tp * workload.layout.pp):
        return f"layout.cp={workload.layout.cp}"
    return f"algorithm.micro_batch_tokens={workload.micro_batch_tokens}"


def _engine_problems(plan: Plan) -> list[str]:
    workload = plan.workload
    rollout, longest = workload.rollout, workload.longest
    if rollout.engine == "megatron":
        return []
    needed = longest.prompt + longest.response
    if plan.engine.cache_tokens >= needed:
        return []
    return [
        f"rollout.vllm.memory_share={rollout.memory_share}: beside "
        f"{plan.engine.weights_gib:.1f} GiB of weights the engine's cache has "
        f"{max(plan.engine.cache_gib, 0.0):.1f} GiB, room for "
        f"{max(plan.engine.cache_tokens, 0):,} tokens; one sample takes {needed:,}. Raise it, or "
        f"rollout.vllm.tensor_parallel={rollout.tensor_parallel}"
    ]
