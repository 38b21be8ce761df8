"""A plan on the terminal: memory by term, seconds by phase, and what a search found."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from megatron_longrlvr.planner.memory import MemoryTerm, StageMemory
from megatron_longrlvr.planner.plan import Plan
from megatron_longrlvr.planner.search import SearchResult

_SHOWN_REASONS = 8


def plan_tables(plan: Plan, *, origin: str, price: float | None) -> RenderableType:
    """Everything about one plan.

    Args:
        plan: To show.
        origin: Where the architecture was read.
        price: Of a GPU for an hour, or None.
    """
    return Group(
        Text(headline(plan, origin)),
        _memory_table(plan),
        _time_table(plan),
        Text(summary(plan, price=price)),
        *[Text(f"does not fit: {problem}", style="bold red") for problem in plan.problems()],
    )


def headline(plan: Plan, origin: str) -> str:
    """Which model on what."""
    workload = plan.workload
    lengths, longest = workload.typical, workload.longest
    return (
        f"{origin}\n{workload.layout} on {plan.cluster}; prompts of {lengths.prompt:,} tokens and "
        f"{workload.rollout.group_size} responses of {lengths.response:,} (memory: "
        f"{longest.prompt:,} and {longest.response:,}), prompt "
        f"{'computed once a group' if workload.shared_prompt else 'repeated for each sample'}"
    )


def summary(plan: Plan, *, price: float | None) -> str:
    """The step as a whole."""
    cost = "" if price is None else f", {plan.step_cost(price):,.2f} a step at {price:g} an hour"
    return (
        f"step {plan.step_s:,.0f} s, MFU {plan.mfu:.1%} ({plan.update_mfu:.1%} in the update), "
        f"{plan.tokens_per_s_per_gpu:,.0f} packed tokens/s/GPU{cost}. Computed, not measured."
    )


def search_tables(result: SearchResult, *, price: float | None) -> RenderableType:
    """The best layouts, and why the others fail."""
    best = Table(
        "tp", "pp", "vpp", "cp", "ep", "dp", "micro-batch", "recompute", "engine tp", "GiB",
        "step s", "MFU", *(["cost"] if price is not None else []),
        title=f"best of {result.num_tried:,} layouts",
    )  # fmt: skip
    for one, plan in result.best:
        best.add_row(
            *(str(value) for value in (one.tp, one.pp, one.vpp, one.cp, one.ep)),
            str(plan.workload.layout.dp),
            f"{one.micro_batch_tokens:,}",
            one.recompute,
            str(one.engine_tp),
            f"{plan.peak_gib:.1f}",
            f"{plan.step_s:,.0f}",
            f"{plan.mfu:.1%}",
            *([f"{plan.step_cost(price):,.2f}"] if price is not None else []),
        )
    reasons = Counter(failure.key for failure in result.failures)
    failed = Table("layouts", "key", "for example", title="why others fail")
    for key, count in reasons.most_common(_SHOWN_REASONS):
        example = next(one for one in result.failures if one.key == key)
        failed.add_row(f"{count:,}", Text(key), Text(example.reason))
    return Group(best, failed)


def _memory_table(plan: Plan) -> Table:
    stages = _shown_stages(plan)
    table = Table(
        "GiB of a rank",
        *(f"stage {stage.stage}" for stage in stages),
        "how",
        title=f"memory ({plan.cluster.accelerator.memory_gib:g} GiB a GPU, "
        f"{plan.limit_gib:.1f} to plan with)",
    )
    for label in ("resident", "training", "critic", "sampling"):
        for name in _term_names(stages, label):
            terms = [_term(getattr(stage, label), name) for stage in stages]
            formula = next(term.formula for term in reversed(terms) if term is not None)
            cells = ["-" if term is None else f"{term.gib:.2f}" for term in terms]
            table.add_row(Text(name), *cells, Text(formula))
        table.add_section()
    table.add_row("while training", *(f"{stage.training_gib:.1f}" for stage in stages), "")
    if plan.workload.critic is not None:
        table.add_row("with the critic", *(f"{stage.critic_gib:.1f}" for stage in stages), "")
    table.add_row("while sampling", *(f"{stage.sampling_gib:.1f}" for stage in stages), "")
    return table


def _time_table(plan: Plan) -> Table:
    table = Table("phase", "seconds", "share", "how", title="a step")
    for phase in plan.phases:
        share = phase.seconds / plan.step_s
        table.add_row(phase.name, f"{phase.seconds:,.1f}", f"{share:.0%}", Text(phase.formula))
    return table


def _shown_stages(plan: Plan) -> list[StageMemory]:
    """The first, the last, and where it is another the one that needs most."""
    worst = max(plan.stages, key=lambda stage: stage.peak_gib)
    picked = {0, worst.stage, len(plan.stages) - 1}
    return [plan.stages[stage] for stage in sorted(picked)]


def _term_names(stages: list[StageMemory], label: str) -> list[str]:
    names = [term.name for stage in stages for term in getattr(stage, label)]
    return list(dict.fromkeys(names))


def _term(terms: tuple[MemoryTerm, ...], name: str) -> MemoryTerm | None:
    return next((term for term in terms if term.name == name), None)
