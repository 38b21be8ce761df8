"""Layouts of a recipe on a cluster: the fastest that fit, and why the others do not."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.policy import LayoutConfig
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.planner.hardware import Cluster
from megatron_longrlvr.planner.plan import Plan, make_plan
from megatron_longrlvr.planner.workload import Lengths, read_workload

_MAX_CP = 16
_RECOMPUTES = ("none", "selective", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One choice of everything that is searched."""

    tp: int
    pp: int
    vpp: int
    cp: int
    ep: int
    micro_batch_tokens: int
    recompute: str
    engine_tp: int

    def overrides(self) -> list[str]:
        """As settings on a command line."""
        return [
            *(f"layout.{axis}={getattr(self, axis)}" for axis in ("tp", "pp", "vpp", "cp", "ep")),
            *(["layout.sequence_parallel=true"] if self.tp > 1 else []),
            f"algorithm.micro_batch_tokens={self.micro_batch_tokens}",
            f"model.recompute={self.recompute}",
            f"rollout.vllm.tensor_parallel={self.engine_tp}",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A candidate that cannot run."""

    candidate: Candidate
    reason: str
    """Opens with the key to change."""

    @property
    def key(self) -> str:
        """The key to change."""
        return re.split("[=:]", self.reason, maxsplit=1)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What was tried."""

    best: Sequence[tuple[Candidate, Plan]]
    """Shortest step first."""

    failures: Sequence[Failure]
    num_tried: int


def search_layouts(
    config: TrainConfig,
    spec: ModelSpec,
    cluster: Cluster,
    *,
    typical: Lengths | None = None,
    num_best: int = 10,
) -> SearchResult:
    """Try every layout, micro-batch, recomputation and engine width that divides.

    The batch, the algorithm and the engine's share of memory stay as the recipe has them.
    """
    found: list[tuple[Candidate, Plan]] = []
    failures: list[Failure] = []
    num_tried = 0
    for candidate in _candidates(config, spec, cluster):
        num_tried += 1
        try:
            plan = _plan(config, spec, cluster, candidate, typical)
        except ConfigError as error:
            failures.append(Failure(candidate=candidate, reason=str(error)))
            continue
        problems = plan.problems()
        if problems:
            failures.append(Failure(candidate=candidate, reason=problems[0]))
        else:
            found.append((candidate, plan))
    found.sort(key=lambda one: one[1].step_s)
    return SearchResult(best=found[:num_best], failures=failures, num_tried=num_tried)


def _plan(
    config: TrainConfig,
    spec: ModelSpec,
    cluster: Cluster,
    candidate: Candidate,
    typical: Lengths | None,
) -> Plan:
    tried = _with(config, candidate)
    check_train_config(tried, world_size=cluster.gpus)
    workload = read_workload(tried, spec, world_size=cluster.gpus, typical=typical)
    return make_plan(workload, cluster)


def _with(config: TrainConfig, candidate: Candidate) -> TrainConfig:
    rollout = config.rollout
    vllm = rollout.vllm.model_copy(update={"tensor_parallel": candidate.engine_tp})
    return config.model_copy(
        update={
            "layout": LayoutConfig(
                tp=candidate.tp,
                pp=candidate.pp,
                vpp=candidate.vpp,
                cp=candidate.cp,
                ep=candidate.ep,
                sequence_parallel=True,  # what layouts with tp are meant to have
            ),
            "model": config.model.model_copy(update={"recompute": candidate.recompute}),
            "algorithm": config.algorithm.model_copy(
                update={"micro_batch_tokens": candidate.micro_batch_tokens}
            ),
            "rollout": rollout.model_copy(update={"vllm": vllm}),
        }
    )


def _candidates(config: TrainConfig, spec: ModelSpec, cluster: Cluster) -> Iterator[Candidate]:
    gpus, node = cluster.gpus, cluster.gpus_per_node
    experts = spec.experts.num_experts if spec.experts is not None else 1
    engine_tps = [config.rollout.vllm.tensor_parallel]
    if config.rollout.engine != "megatron":
        engine_tps = [
            width for width in _divisors(node) if spec.num_heads % width == 0 and gpus % width == 0
        ]
    for tp, pp, cp in itertools.product(
        [tp for tp in _divisors(node) if spec.num_kv_heads % tp == 0],
        [pp for pp in _divisors(spec.num_layers) if gpus % pp == 0],
        [cp for cp in _divisors(gpus) if cp <= _MAX_CP],
    ):
        if gpus % (tp * pp * cp):
            continue
        ranks = gpus // (tp * pp)
        eps = [ep for ep in _divisors(experts) if ranks % ep == 0]
        vpps = [1] if pp == 1 else [vpp for vpp in (1, 2, 4) if spec.num_layers % (pp * vpp) == 0]
        for vpp, ep, budget, recompute, engine_tp in itertools.product(
            vpps, eps, _budgets(config), _RECOMPUTES, engine_tps
        ):
            yield Candidate(
                tp=tp,
                pp=pp,
                vpp=vpp,
                cp=cp,
                ep=ep,
                micro_batch_tokens=budget,
                recompute=recompute,
                engine_tp=engine_tp,
            )


def _budgets(config: TrainConfig) -> list[int]:
    """Tokens of a whole group, of half of one, and of one sample."""
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    size = config.rollout.group_size
    counts = {size, max(size // 2, 1), 1} if config.algorithm.shared_prompt else {1}
    return sorted(prompt + count * response for count in counts)


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
