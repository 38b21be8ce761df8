"""Memory of each pipeline stage's ranks, as a list of terms.

Weights, gradients and optimizer state are exact; kept activations are counted tensor by tensor;
work space, the engine's own and what CUDA and NCCL take are estimates, and say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from megatron_longrlvr.parallel.layout import padded_lengths
from megatron_longrlvr.planner import activations, parameters
from megatron_longrlvr.planner.activations import LayerShape
from megatron_longrlvr.planner.hardware import GIB, Accelerator
from megatron_longrlvr.planner.packing import Row, update_rows
from megatron_longrlvr.planner.workload import Workload

RESERVE_FRAC = 0.06
"""Share of a device that a plan leaves free: the allocator cuts memory into pieces."""

# Assumed: CUDA context and libraries, and the buffers of a dozen NCCL communicators.
_CONTEXT_GIB = 2.5
# Assumed: work space of an engine's forward pass, and what stays behind when it sleeps.
_ENGINE_WORK_GIB = 2.0
_ENGINE_ASLEEP_GIB = 1.5

_KEYS_AND_VALUES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTerm:
    """One reason why a rank needs memory."""

    name: str
    gib: float
    formula: str
    """How it was computed, for a reader."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMemory:
    """What the ranks of one pipeline stage need, by the phase of a step."""

    stage: int
    resident: tuple[MemoryTerm, ...]
    """In every phase."""

    training: tuple[MemoryTerm, ...]
    sampling: tuple[MemoryTerm, ...]
    critic: tuple[MemoryTerm, ...] = ()
    """While the critic learns; empty without one."""

    @property
    def training_gib(self) -> float:
        return _total((*self.resident, *self.training))

    @property
    def sampling_gib(self) -> float:
        return _total((*self.resident, *self.sampling))

    @property
    def critic_gib(self) -> float:
        """0 without a critic."""
        return _total((*self.resident, *self.critic)) if self.critic else 0.0

    @property
    def peak_gib(self) -> float:
        return max(self.training_gib, self.sampling_gib, self.critic_gib)


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What one rank's share of the sampling engine holds."""

    weights_gib: float
    cache_gib: float
    cache_tokens: int
    """Tokens whose keys and values fit into the cache of one engine."""


def plan_memory(workload: Workload, device: Accelerator) -> tuple[StageMemory, ...]:
    """Memory of a rank of each stage."""
    rows = update_rows(workload, workload.longest)
    engine = engine_memory(workload, device)
    asleep = _asleep(workload, engine)
    context = MemoryTerm(name="CUDA and NCCL", gib=_CONTEXT_GIB, formula="assumed")
    stages = []
    for stage in range(workload.layout.pp):
        own, learning, is_kept = _critic(workload, rows, stage)
        stages.append(
            StageMemory(
                stage=stage,
                resident=(*_trainee(workload, stage), *(own if is_kept else ()), context),
                training=(*_activations(workload, rows, stage), *asleep),
                sampling=_sampling(workload, engine),
                critic=(*(() if is_kept else own), *learning, *asleep) if own else (),
            )
        )
    return tuple(stages)


def _critic(
    workload: Workload, rows: list[Row], stage: int
) -> tuple[tuple[MemoryTerm, ...], tuple[MemoryTerm, ...], bool]:
    """What a critic holds, what it takes to learn, and whether it holds the first all the time."""
    if workload.critic is None:
        return (), (), True
    critic = workload.of_critic()
    own = [replace(term, name=f"critic {term.name}") for term in _trainee(critic, stage)]
    return tuple(own), _activations(critic, rows, stage), not workload.critic.is_offloaded


def engine_memory(workload: Workload, device: Accelerator) -> Engine:
    """The engine's weights and cache; negative cache where its share is too small."""
    spec, rollout = workload.spec, workload.rollout
    width = rollout.tensor_parallel
    weights = parameters.model_parameters(spec) * workload.element_bytes / width / GIB
    per_token = kv_bytes_per_token(workload)
    if rollout.engine == "megatron":
        # Decodes on the learner's weights; a cache for as many samples as it takes at once.
        samples = rollout.prompts_per_step * rollout.group_size / workload.layout.dp
        at_once = min(samples, rollout.max_concurrent_samples)
        tokens = int(at_once * (workload.longest.prompt + workload.longest.response))
        layers = per_token / workload.layout.pp
        return Engine(weights_gib=0.0, cache_gib=tokens * layers / GIB, cache_tokens=tokens)
    if rollout.kv_cache_gib is not None:
        cache = rollout.kv_cache_gib
    else:
        cache = rollout.memory_share * device.memory_gib - weights - _ENGINE_WORK_GIB
    return Engine(weights_gib=weights, cache_gib=cache, cache_tokens=int(cache * GIB / per_token))


def kv_bytes_per_token(workload: Workload) -> float:
    """Keys and values of one token in all layers, on one rank of the engine."""
    spec = workload.spec
    heads = max(spec.num_kv_heads / workload.rollout.tensor_parallel, 1)
    return _KEYS_AND_VALUES * spec.num_layers * heads * spec.head_dim * workload.element_bytes


def kept_activation_bytes(workload: Workload, rows: list[Row], stage: int) -> float:
    """Most bytes that autograd keeps at one time on a rank of a stage.

    Micro-batches in flight: ``pp - stage`` (1F1B), or with several chunks of layers
    ``2 (pp - stage - 1) + (vpp - 1) pp + 1`` chunks (megatron-core's interleaved schedule). A layer
    that is recomputed holds its activations besides.
    """
    layout, recompute = workload.layout, workload.recompute
    in_flight = _in_flight(workload, len(rows), stage)
    shape = _shape(workload, rows[0])
    layers = _stage_layers(workload, stage)
    total = 0.0
    for has_experts in set(layers):
        count = layers.count(has_experts) / layout.vpp
        one = activations.layer_bytes(shape, recompute, has_experts=has_experts)
        total += in_flight * count * one
    # Chunks of one micro-batch share its rotation.
    total += -(-in_flight // layout.vpp) * activations.rotation_bytes(shape, recompute)
    if stage == 0:
        total += in_flight / layout.vpp * activations.input_bytes(shape)
    head = 0.0
    if stage == layout.pp - 1:
        predictions = -(-rows[0].responses // layout.cp)
        head = activations.head_bytes(shape, predictions, has_value_head=workload.has_value_head)
        total += head  # once: its backward comes right behind its forward
    return total + _recomputed_bytes(workload, shape, has_experts=layers[-1], released=head)


def _recomputed_bytes(
    workload: Workload, shape: LayerShape, *, has_experts: bool, released: float
) -> float:
    """What backward adds to the peak when it runs a stage's last layer again.

    Args:
        workload: Says what is recomputed.
        shape: Of the layer.
        has_experts: Whether it has some.
        released: Bytes of the head, whose backward is over by then.
    """
    if workload.recompute == "none":
        return 0.0
    whole = activations.layer_bytes(shape, "none", has_experts=has_experts)
    rotation = activations.rotation_bytes(shape, "none")
    if workload.recompute == "full":
        # In fp32 the norm's wide input is the layer's input, which is counted.
        held = activations.layer_input_bytes(shape) if workload.element_bytes == 4 else 0.0
        return max(whole - held + rotation - released, 0.0)
    released += activations.behind_attention_bytes(shape, has_experts=has_experts)
    again = activations.core_attention_bytes(shape)
    return max(again + rotation - released, 0.0)


def _trainee(workload: Workload, stage: int) -> tuple[MemoryTerm, ...]:
    """Weights, gradients and optimizer, and the reference's weights where there is one."""
    layout, element = workload.layout, workload.element_bytes
    sharded = workload.is_optimizer_sharded
    holding = parameters.stage_holdings(
        workload.spec, layout, is_sharded=sharded, has_value_head=workload.has_value_head
    )[stage]
    ranks = f"{layout.dp * layout.cp} ranks" if sharded else "not sharded"
    state = parameters.optimizer_bytes(holding, layout, element_bytes=element, is_sharded=sharded)
    on_host = f", {workload.host_frac:.0%} of it on the host" if workload.host_frac else ""
    terms = [
        _term(
            "weights",
            parameters.weight_bytes(holding, element_bytes=element, is_sharded=sharded),
            f"{element} B x {holding.parameters:,} parameters",
        ),
        _term(
            "gradients",
            parameters.gradient_bytes(holding),
            f"4 B x {holding.buffer:,} elements (fp32)",
        ),
        _term(
            "optimizer",
            state * (1 - workload.host_frac),
            f"{12 if element < 4 else 8} B x {holding.parameters:,} parameters, {ranks}{on_host}",
        ),
    ]
    if workload.has_reference:
        terms.append(
            _term(
                "reference",
                element * holding.parameters,
                f"{element} B x {holding.parameters:,} parameters (algorithm.kl)",
            )
        )
    return tuple(terms)


def _activations(workload: Workload, rows: list[Row], stage: int) -> tuple[MemoryTerm, ...]:
    layout, shape = workload.layout, _shape(workload, rows[0])
    in_flight = _in_flight(workload, len(rows), stage)
    kept = kept_activation_bytes(workload, rows, stage)
    terms = [
        _term(
            "activations",
            kept,
            f"{in_flight / layout.vpp:g} micro-batches of {rows[0].tokens:,} tokens in flight, "
            f"{len(_stage_layers(workload, stage))} layers, recompute={workload.recompute}",
        ),
        _term(
            "layer work space",
            _work_bytes(workload, shape),
            "estimate: temporaries of one layer's backward",
        ),
    ]
    if layout.pp > 1:
        # The schedule holds what a stage received and sent until its backward is through.
        terms.append(
            _term(
                "pipeline messages",
                2 * in_flight * activations.layer_input_bytes(shape),
                f"2 x {in_flight} hidden states",
            )
        )
    if stage == layout.pp - 1:
        terms.append(_head(workload, rows[0], shape))
    return tuple(terms)


def _head(workload: Workload, row: Row, shape: LayerShape) -> MemoryTerm:
    """What stands on top of the last stage's layers while it is computed."""
    spec, element, tp = workload.spec, workload.element_bytes, workload.layout.tp
    gathered = 2 * shape.tokens * spec.hidden_size * element
    if workload.has_value_head:
        return _term("value head", gathered, "the hidden states gathered")
    vocab = spec.padded_vocab_size(tp) // tp
    chunk = min(workload.logprob_chunk_tokens, row.responses)
    logits = chunk * vocab * (element + 8) + vocab * spec.hidden_size * 4
    return _term(
        "logits",
        logits + gathered,
        f"{chunk:,} tokens x {vocab:,} of the vocabulary, its weight's gradient, and the "
        "hidden states gathered",
    )


def _work_bytes(workload: Workload, shape: LayerShape) -> float:
    layout, spec, element = workload.layout, workload.spec, workload.element_bytes
    t = shape.tokens
    # fp32 sums of gradients of queries, and of keys and values of all context-parallel ranks.
    attention = t * shape.query_width * 3 * 4 + layout.cp * t * 2 * shape.key_width * (4 + element)
    if spec.experts is None:
        ffn = spec.intermediate_size / layout.tp
        mlp = t * element * (4 * ffn + 2 * spec.hidden_size)
    else:
        rows = t * spec.experts.num_per_token
        ffn = spec.experts.intermediate_size / layout.tp
        mlp = rows * element * (4 * ffn + 3 * spec.hidden_size)
    norm = 3 * 4 * shape.sequence_share * spec.hidden_size
    return max(attention, mlp) + norm


def _asleep(workload: Workload, engine: Engine) -> tuple[MemoryTerm, ...]:
    """What a colocated engine holds while the learner trains."""
    if workload.rollout.engine != "vllm_colocated":
        return ()
    if workload.rollout.sleep_level == 0:
        return _sampling(workload, engine)
    return (MemoryTerm(name="engine asleep", gib=_ENGINE_ASLEEP_GIB, formula="assumed"),)


def _sampling(workload: Workload, engine: Engine) -> tuple[MemoryTerm, ...]:
    rollout = workload.rollout
    if rollout.engine == "vllm_server":
        return ()
    per_token = kv_bytes_per_token(workload)
    cache = MemoryTerm(
        name="key/value cache",
        gib=max(engine.cache_gib, 0.0),
        formula=f"{engine.cache_tokens:,} tokens of {per_token / 1024:.1f} KiB",
    )
    if rollout.engine == "megatron":
        return (cache,)
    return (
        MemoryTerm(
            name="engine weights",
            gib=engine.weights_gib,
            formula=f"{workload.element_bytes} B x {parameters.model_parameters(workload.spec):,} "
            f"parameters / {rollout.tensor_parallel}",
        ),
        cache,
        MemoryTerm(name="engine work space", gib=_ENGINE_WORK_GIB, formula="assumed"),
        _term("refit buckets", 2 * rollout.bucket_bytes, "two buckets: one gathered, one loaded"),
    )


def _in_flight(workload: Workload, num_rows: int, stage: int) -> int:
    """Micro-batches in flight, or chunks of layers of them where the schedule interleaves."""
    layout = workload.layout
    if layout.vpp == 1:
        return min(num_rows, layout.pp - stage)
    rows = -(-num_rows // layout.pp) * layout.pp  # the schedule takes whole rounds
    return min(rows * layout.vpp, 2 * (layout.pp - stage - 1) + (layout.vpp - 1) * layout.pp + 1)


def _stage_layers(workload: Workload, stage: int) -> list[bool]:
    """Whether each of a stage's layers has experts."""
    layout, spec = workload.layout, workload.spec
    per_chunk = spec.num_layers // (layout.pp * layout.vpp)
    return [
        spec.has_experts(layer)
        for layer in range(spec.num_layers)
        if layer // per_chunk % layout.pp == stage
    ]


def _shape(workload: Workload, row: Row) -> LayerShape:
    layout = workload.layout
    padded = sum(padded_lengths([row.tokens], cp=layout.cp, multiple=layout.sequence_multiple))
    return LayerShape(
        spec=workload.spec,
        layout=layout,
        tokens=padded // layout.cp,
        element_bytes=workload.element_bytes,
    )


def _term(name: str, num_bytes: float, formula: str) -> MemoryTerm:
    return MemoryTerm(name=name, gib=num_bytes / GIB, formula=formula)


def _total(terms: Iterable[MemoryTerm]) -> float:
    return sum(term.gib for term in terms)
