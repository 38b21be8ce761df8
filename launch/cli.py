"""``python -m launch``: render, submit and look after the jobs of a run."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from launch import commands
from launch.job import JOB_KINDS
from megatron_longrlvr.errors import ConfigError

USAGE_EXIT_CODE = 2
FAILED_EXIT_CODE = 1

_EPILOG = """
examples:
  python -m launch render my.yaml --site mine.yaml --nodes 4   write the job script
  python -m launch check  my.yaml --site mine.yaml --nodes 4   and ask Slurm about it
  python -m launch submit my.yaml --site mine.yaml --nodes 4   and queue it
  python -m launch chain  my.yaml --site mine.yaml --jobs 5    five of them, one after the other
  python -m launch submit my.yaml --site mine.yaml --job evaluate
  python -m launch submit my.yaml --site mine.yaml --job sweep --vary optimizer.lr=1e-6,2e-6
  python -m launch submit my.yaml --site mine.yaml --nodes 4 --server-nodes 2
                                                               vLLM on two further nodes
  python -m launch submit stage.yaml --site mine.yaml --job data   a command for each shard
  python -m launch status my.yaml                              or the directory of the run;
                                                               so do logs, explain, attach, cancel
  python -m launch resume my.yaml                              queue the same script again
  python -m launch local tiny_cpu --procs 2                    the same without Slurm

exit codes of a job and of `local`: 0 finished, 1 a rank failed, 2 a setting is wrong, 70 hung,
73 a rollout server died too often, 74 a rank was killed, 75 the judge gave too few verdicts, 76 a
node vanished, 78 no restarts left or no progress, 79 a node was unfit, 130 stopped.
"""

_Action = Callable[[argparse.Namespace], int]

_PLANNING: dict[str, tuple[str, _Action]] = {
    "render": ("write the job script, the resolved recipe and what they need", commands.render),
    "check": ("check recipe and profile, and ask Slurm whether the job can run", commands.check),
    "submit": ("render and queue one job", commands.submit),
    "chain": ("render and queue jobs that go on one after the other", commands.chain),
}
_LOOKING: dict[str, tuple[str, _Action]] = {
    "status": ("state of the run's jobs and how far it is", commands.status),
    "logs": ("the last lines of the newest attempt's logs", commands.logs),
    "attach": ("a shell on a node of the running job", commands.attach),
    "cancel": ("cancel the run's jobs, waiting ones included", commands.cancel),
    "resume": ("queue the rendered script again", commands.resume),
    "explain": ("why the last attempt ended", commands.explain),
}


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="python -m launch",
        description="Render, submit and look after the jobs of a run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, action) in _PLANNING.items():
        verb = _verb(verbs, name, summary, action)
        verb.add_argument("--site", required=True, help="profile: a file, or one of slurm/sites")
        _add_job(verb)
        if name == "chain":
            verb.add_argument("--jobs", type=int, required=True, metavar="N", help="how many")
        if name in {"submit", "chain"}:
            verb.add_argument("--dry-run", action="store_true", help="render only")
    for name, (summary, action) in _LOOKING.items():
        verb = _verb(verbs, name, summary, action)
        verb.add_argument("--site", help="not needed; accepted so that a command can be edited")
        verb.add_argument("--job", choices=JOB_KINDS, default="train")
        if name == "logs":
            verb.add_argument("--lines", type=int, default=20, metavar="N")
            verb.add_argument("--follow", action="store_true", help="go on as they grow")
        if name == "attach":
            verb.add_argument("--node", help="default: the first")
        if name in {"attach", "cancel", "resume"}:
            verb.add_argument("--dry-run", action="store_true", help="print, do nothing")
    local = _verb(verbs, "local", "run on this machine, supervised alike", commands.local)
    local.add_argument("--procs", type=int, default=1, metavar="N", help="processes")
    local.add_argument("--hang-timeout", type=int, default=1800, metavar="SECONDS")
    local.add_argument("--max-restarts", type=int, default=3, metavar="N")
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    action: _Action,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    verb.set_defaults(action=action)
    verb.add_argument(
        "recipe", metavar="RECIPE", help="YAML file, shipped recipe, or run directory"
    )
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe")
    return verb


def _add_job(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--job", choices=JOB_KINDS, default="train", help="default: train")
    verb.add_argument("--nodes", type=int, metavar="N", help="default: the profile's")
    verb.add_argument("--time", metavar="HH:MM:SS", help="default: the profile's")
    verb.add_argument(
        "--server-nodes",
        type=int,
        default=0,
        metavar="N",
        help="further nodes that rollout servers run on",
    )
    verb.add_argument("--heterogeneous", action="store_true", help="ask for those nodes separately")
    verb.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="key=a,b",
        help="for --job sweep: one task for each combination",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    # argparse takes all positional arguments at once: those behind an option are left over.
    late = [argument for argument in rest if "=" in argument and not argument.startswith("-")]
    if len(late) < len(rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.overrides = [*parsed.overrides, *late]
    parsed.command = ["python", "-m", "launch", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        code: int = parsed.action(parsed)
    except ConfigError as error:
        print(f"launch: {error}", file=sys.stderr)  # noqa: T201 - the command line's voice
        return USAGE_EXIT_CODE
    except RuntimeError as error:
        print(f"launch: {error}", file=sys.stderr)  # noqa: T201
        return FAILED_EXIT_CODE
    return code
