"""For the plain job scripts: check a recipe against the job's size and say where its run lies.

    python -m launch.resolve RECIPE --nodes N --procs N [key=value ...]

writes the resolved recipe to ``job/recipe.json`` in the run's directory and prints two lines: that
directory, and the number of training steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from launch.job import JobRequest, plan_job
from launch.site import NodeSection, Site
from megatron_longrlvr.config.load import write_config
from megatron_longrlvr.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Resolve, or say in one line what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m launch.resolve", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--procs", type=int, required=True, help="ranks on each node")
    parser.add_argument("overrides", nargs="*")
    parsed = parser.parse_intermixed_args(arguments)
    try:
        here = Site(name="plain", node=NodeSection(processes=parsed.procs))
        request = JobRequest(recipe=parsed.recipe, overrides=parsed.overrides, nodes=parsed.nodes)
        job = plan_job(request, here)
    except ConfigError as error:
        print(f"launch: {error}", file=sys.stderr)  # noqa: T201 - the command line's voice
        return 2
    job.folder.mkdir(parents=True, exist_ok=True)
    write_config(job.configs[0], job.folder / "recipe.json")
    print(job.base, job.steps, sep="\n")  # noqa: T201 - the command's result
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
