"""Plain job scripts: what their heads tell a user to type is a job that the recipe fits.

Sizes are those that the planner found for each recipe (tests/records/recipe_plans.json); Slurm is
asked about the same commands in tests/slurm.
"""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from launch.job import CHECKOUT, JobRequest, plan_job
from launch.site import NodeSection, Site

PLANS = json.loads((CHECKOUT / "tests" / "records" / "recipe_plans.json").read_text())["rows"]
SCRIPTS = sorted((CHECKOUT / "slurm").glob("train_*.sbatch"))
GPUS = 8


def directive(script, name):
    (value,) = re.findall(rf"^#SBATCH --{name}=(.*)$", script.read_text(), re.MULTILINE)
    return value


def commands(script):
    """(nodes, recipe, overrides) of the commands in a script's head, and of the bare one."""
    text = script.read_text()
    (default,) = re.findall(r"set -- (\S+); fi", text)
    found = [(int(directive(script, "nodes")), default, [])]
    for line in re.findall(r"^#   (sbatch .*)$", text.replace("\\\n#", ""), re.MULTILINE):
        options, _, arguments = line.partition(f"slurm/{script.name}")
        recipe, *overrides = shlex.split(arguments)
        if not recipe.startswith("["):
            nodes = re.findall(r"--nodes=(\d+)", options) or [found[0][0]]
            found.append((int(nodes[0]), recipe, overrides))
    return found


COMMANDS = [(script, *command) for script in SCRIPTS for command in commands(script)]


@pytest.mark.parametrize(
    ("script", "nodes", "recipe", "overrides"),
    COMMANDS,
    ids=[f"{script.stem}-{recipe}-{nodes}" for script, nodes, recipe, _ in COMMANDS],
)
def test_command_in_the_head_of_a_script_fits_its_recipe(script, nodes, recipe, overrides):
    assert directive(script, "gpus-per-node") == str(GPUS)
    site = Site(name="plain", node=NodeSection(gpus=GPUS))
    job = plan_job(JobRequest(recipe=recipe, overrides=overrides, nodes=nodes), site)
    tokens = job.configs[0].data.max_prompt_tokens
    (plan,) = [
        plan for plan in PLANS if plan["recipe"] == recipe and plan["max_prompt_tokens"] == tokens
    ]
    assert plan["cluster"] == f"h100:{GPUS}x{nodes}"
    assert plan["fits"]


def test_every_planned_recipe_has_a_command_at_both_lengths():
    asked = {(recipe, nodes, len(overrides) > 0) for _, nodes, recipe, overrides in COMMANDS}
    planned = {
        (plan["recipe"], int(plan["cluster"].partition("x")[2]), plan["max_prompt_tokens"] > 65536)
        for plan in PLANS
    }
    assert planned - asked == set()


# In place of srun: a step that ends well at once.
SRUN = """#!/usr/bin/env bash
while [[ $1 != --attempt ]]; do shift; done
echo '{"role": "convert", "node": "n", "cause": "finished", "detail": "", "at": 0}' \
  >"$2/exit-convert-n.json"
"""


def test_conversions_keep_apart_what_became_of_them(tmp_path):
    # Else the fourth of four that run at the same time counts the others as its own failed starts.
    for name in ("slurm", "launch", "megatron_longrlvr", "tools"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    for job_id in ("7", "8"):
        environment = {
            **os.environ,
            **{
                "SLURM_JOB_ID": job_id,
                "SLURM_JOB_NODELIST": "n",
                "SLURM_SUBMIT_DIR": str(tmp_path),
            },
            **{"LONGRLVR_PYTHON": sys.executable, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        }
        command = ["bash", str(CHECKOUT / "slurm" / "convert.sbatch"), "to_hf", "a", "b"]
        subprocess.run(command, env=environment, check=True)
    begun = (tmp_path / "runs" / "convert").glob("*/*-0/begin.json")
    assert sorted(path.parent.parent.name for path in begun) == ["7", "8"]
