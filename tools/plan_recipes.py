"""Plan every shipped GPU recipe as its head says: the table of memory and step time.

    python tools/plan_recipes.py --output tests/records/recipe_plans.json

Step times are given twice: for the longest prompts and responses that a recipe allows, and for
prompts of 40,000 tokens with responses of 800, about what the released data and models have (at
128K: for 100,000 and 800). Everything is computed; nothing was measured on such a cluster.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.hardware import parse_cluster
from megatron_longrlvr.planner.plan import Plan, make_plan
from megatron_longrlvr.planner.workload import Lengths, read_workload
from tests.support.recipe_commands import GPU_RECIPES, plan_commands

_TYPICAL = (Lengths(prompt=40_000, response=800), Lengths(prompt=100_000, response=800))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the record here")
    parsed = parser.parse_args(arguments)
    rows = []
    print("| recipe | prompts | cluster | layout | GiB | step, longest | step, typical | MFU |")
    print("|---|---|---|---|---|---|---|---|")
    for recipe in GPU_RECIPES:
        for command, typical in zip(plan_commands(recipe), _TYPICAL, strict=True):
            config = load_config(recipe, command.overrides, TrainConfig)
            spec = find_architecture(config.model.path).spec
            cluster = parse_cluster(command.cluster)
            longest_plan, typical_plan = (
                make_plan(
                    read_workload(config, spec, world_size=cluster.gpus, typical=lengths), cluster
                )
                for lengths in (None, typical)
            )
            rows.append(_row(recipe, longest_plan, typical_plan))
            print(_markdown(rows[-1]))
            for problem in longest_plan.problems():
                print(f"  does not fit: {problem}")
    if parsed.output is not None:
        header = record_header("GiB a GPU and seconds a step of the shipped recipes; computed")
        parsed.output.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")
    return 0


def _row(recipe: str, longest: Plan, typical: Plan) -> dict[str, object]:
    return {
        "recipe": recipe,
        "max_prompt_tokens": longest.workload.longest.prompt,
        "typical_tokens": [typical.workload.typical.prompt, typical.workload.typical.response],
        "cluster": str(longest.cluster),
        "layout": str(longest.workload.layout),
        "training_gib": round(max(stage.training_gib for stage in longest.stages), 1),
        "sampling_gib": round(max(stage.sampling_gib for stage in longest.stages), 1),
        "step_s_longest": round(longest.step_s),
        "step_s_typical": round(typical.step_s),
        "phases_s_typical": {phase.name: round(phase.seconds, 1) for phase in typical.phases},
        "mfu_typical": round(typical.mfu, 3),
        "update_mfu_typical": round(typical.update_mfu, 3),
        "fits": not longest.problems(),
    }


def _markdown(row: dict[str, object]) -> str:
    layout = str(row["layout"]).replace(" sequence_parallel", "")
    gib = f"{row['training_gib']} / {row['sampling_gib']}"
    cells = (
        row["recipe"],
        row["max_prompt_tokens"],
        row["cluster"],
        layout,
        gib,
        f"{row['step_s_longest']} s",
        f"{row['step_s_typical']} s",
        row["mfu_typical"],
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
