"""``longrlvr plan``: read a recipe, plan it, show it, write what was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.hardware import parse_cluster
from megatron_longrlvr.planner.plan import Plan, make_plan
from megatron_longrlvr.planner.search import SearchResult, search_layouts
from megatron_longrlvr.planner.workload import Lengths, read_workload
from megatron_longrlvr.reporting.plan_table import plan_tables, search_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What was asked for on the command line."""

    recipe: str
    overrides: Sequence[str]
    cluster: str
    is_search: bool = False
    prompt_tokens: int | None = None
    """Mean length of a prompt; the longest if None."""

    response_tokens: int | None = None
    price_per_gpu_hour: float | None = None
    json_path: Path | None = None
    html_path: Path | None = None
    png_path: Path | None = None


def plan_recipe(request: PlanRequest) -> bool:
    """Plan a recipe and print it; returns whether it can run there.

    Raises:
        ConfigError: The recipe, the cluster or the layout is wrong; names the key.
    """
    config = load_config(request.recipe, request.overrides, TrainConfig)
    cluster = parse_cluster(request.cluster)
    model = find_architecture(config.model.path)
    typical = _typical(request, config)
    console, price = Console(), request.price_per_gpu_hour
    result = None
    if request.is_search:
        result = search_layouts(config, model.spec, cluster, typical=typical)
        console.print(search_tables(result, price=price))
        if not result.best:
            _write_failures(request, result)
            return False
        candidate, plan = result.best[0]
        console.print("The first of them: " + " ".join(candidate.overrides()), markup=False)
    else:
        check_train_config(config, world_size=cluster.gpus)
        workload = read_workload(config, model.spec, world_size=cluster.gpus, typical=typical)
        plan = make_plan(workload, cluster)
    console.print(plan_tables(plan, origin=model.origin, price=price))
    _write(request, plan, result, origin=model.origin)
    return not plan.problems()


def _typical(request: PlanRequest, config: TrainConfig) -> Lengths:
    longest = {
        "prompt": config.data.max_prompt_tokens,
        "response": config.rollout.max_response_tokens,
    }
    given = {"prompt": request.prompt_tokens, "response": request.response_tokens}
    for what, mean in given.items():
        if mean is not None and mean > longest[what]:
            raise ConfigError(
                f"--{what}-tokens {mean} is above the longest {what} of the recipe, {longest[what]}"
            )
    return Lengths(**{what: given[what] or most for what, most in longest.items()})


def plan_record(plan: Plan, *, price: float | None = None) -> dict[str, Any]:
    """A plan as JSON."""
    return {
        "cluster": str(plan.cluster),
        "layout": str(plan.workload.layout),
        "lengths": {
            "longest": asdict(plan.workload.longest),
            "typical": asdict(plan.workload.typical),
        },
        "memory": [
            {
                "stage": stage.stage,
                "training_gib": stage.training_gib,
                "critic_gib": stage.critic_gib,
                "sampling_gib": stage.sampling_gib,
                **{
                    label: [asdict(term) for term in getattr(stage, label)]
                    for label in ("resident", "training", "critic", "sampling")
                },
            }
            for stage in plan.stages
        ],
        "phases": [asdict(phase) for phase in plan.phases],
        "step_s": plan.step_s,
        "mfu": plan.mfu,
        "update_mfu": plan.update_mfu,
        "tokens_per_s_per_gpu": plan.tokens_per_s_per_gpu,
        "step_cost": None if price is None else plan.step_cost(price),
        "problems": plan.problems(),
    }


def _search_record(result: SearchResult, price: float | None) -> dict[str, Any]:
    return {
        "num_tried": result.num_tried,
        "best": [
            {"candidate": asdict(candidate), "plan": plan_record(plan, price=price)}
            for candidate, plan in result.best
        ],
        "failures": [
            {"candidate": asdict(failure.candidate), "reason": failure.reason}
            for failure in result.failures
        ],
    }


def _write_failures(request: PlanRequest, result: SearchResult) -> None:
    """Write why nothing fits; there is no plan to draw."""
    if request.json_path is not None:
        record = {"search": _search_record(result, request.price_per_gpu_hour)}
        write_atomically(request.json_path, json.dumps(record, indent=1) + "\n")


def _write(request: PlanRequest, plan: Plan, result: SearchResult | None, *, origin: str) -> None:
    price = request.price_per_gpu_hour
    if request.json_path is not None:
        record = plan_record(plan, price=price)
        if result is not None:
            record["search"] = _search_record(result, price)
        write_atomically(request.json_path, json.dumps(record, indent=1) + "\n")
    if request.html_path is None and request.png_path is None:
        return
    from megatron_longrlvr.reporting.plan_page import render_plan
    from megatron_longrlvr.reporting.plan_picture import plan_png

    picture = plan_png(plan)
    if request.png_path is not None:
        write_atomically(request.png_path, picture)
    if request.html_path is not None:
        write_atomically(request.html_path, render_plan(plan, picture, origin=origin, price=price))
