"""The command line: ``longrlvr {train,sft,evaluate,report}``.

Everything a command does lives in the packages; this file reads arguments and turns the errors
that a person can mend into one line and an exit code.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_longrlvr import __version__
from megatron_longrlvr.errors import CheckpointError, ConfigError, DataError, NonFiniteUpdate

USAGE_EXIT_CODE = 2
FAILED_EXIT_CODE = 1

_OVERRIDES_HELP = (
    "settings that replace the recipe's, e.g. rollout.group_size=16 rewards.context.eta=0.2 "
    "layout.tp=2; the value is read as YAML"
)
_TRAIN_EXAMPLES = """
A recipe is a YAML file or the name of a shipped one. Start one process per device:

  longrlvr train tiny_cpu                                  one process
  torchrun --nproc-per-node 2 -m megatron_longrlvr train tiny_cpu layout.tp=2
  longrlvr train tiny_cpu rewards.variant=outcome_only run.dir=runs/outcome --dry-run

The same command goes on after an interruption, from the last checkpoint, and does nothing when
the run is finished. Exit codes: 0 finished, 1 failed, 2 a setting or a file is wrong, 130 stopped
by a signal after the step in progress.
"""
_SFT_EXAMPLES = """
Makes the starting model of the toy task from random weights. The result is a Hugging Face folder,
hf/ in the run directory, that a GRPO recipe's model.path can name:

  longrlvr sft toy_sft run.dir=runs/start
  longrlvr train tiny_cpu model.path=runs/start/hf
"""
_EVALUATE_EXAMPLES = """
Give a run directory to measure its newest checkpoint, or a recipe to measure the model it starts
from. The recipe's evaluation section says on what:

  longrlvr evaluate runs/quickstart/longrlvr
  longrlvr evaluate runs/quickstart/longrlvr evaluation.temperature=0 evaluation.num_prompts=512
  longrlvr evaluate tiny_cpu --json start.json
"""
_REPORT_EXAMPLES = """
Builds one self-contained HTML page from what the runs logged; nothing is computed again:

  longrlvr report runs/quickstart/outcome_only runs/quickstart/longrlvr --output report.html
"""


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="longrlvr",
        description="Reinforcement learning of long-context language models on megatron-core, "
        "with verifiable context rewards.",
    )
    parser.add_argument("--version", action="version", version=f"longrlvr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _command(commands, "train", "train a policy with GRPO", _TRAIN_EXAMPLES, _train)
    _add_recipe(train)
    sft = _command(commands, "sft", "train on demonstrations of the toy task", _SFT_EXAMPLES, _sft)
    _add_recipe(sft)

    evaluate = _command(
        commands, "evaluate", "measure a policy on held-out prompts", _EVALUATE_EXAMPLES, _evaluate
    )
    evaluate.add_argument("target", metavar="RUN_DIR|RECIPE")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES_HELP)
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the metrics here too")

    report = _command(commands, "report", "build the HTML report", _REPORT_EXAMPLES, _report)
    report.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    report.add_argument("--output", type=Path, required=True, metavar="FILE")
    report.add_argument("--title", help="heading of the page")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    # megatron-core's own calls, which the person at the terminal can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    for message in ("Apex is not installed", "full scope is deprecated", "The .grad attribute"):
        warnings.filterwarnings("ignore", message, UserWarning, module=r"megatron\.core")
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    # argparse takes all positional arguments at once: those behind an option are left over.
    late = [argument for argument in rest if "=" in argument and not argument.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(parsed, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        parsed.overrides = [*parsed.overrides, *late]
    try:
        code: int = parsed.run(parsed)
    except (ConfigError, DataError) as error:
        print(f"longrlvr: {error}", file=sys.stderr)  # noqa: T201 - the command line's voice
        return USAGE_EXIT_CODE
    except (CheckpointError, NonFiniteUpdate) as error:
        print(f"longrlvr: {error}", file=sys.stderr)  # noqa: T201
        return FAILED_EXIT_CODE
    return code


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    examples: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES_HELP)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything that can be checked, print the resolved configuration and stop",
    )


# Heavy libraries are imported inside the commands, so that --help and --dry-run answer at once.


def _train(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.config.load import load_config
    from megatron_longrlvr.config.schema import TrainConfig

    config = load_config(arguments.recipe, arguments.overrides, TrainConfig)
    if arguments.dry_run:
        from megatron_longrlvr.config.checks import check_train_config

        check_train_config(config, world_size=_world_size())
        return _print_config(config.model_dump(mode="json"))
    from megatron_longrlvr.trainer.session import run_training

    return run_training(config)


def _sft(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.config.load import load_config
    from megatron_longrlvr.config.sft import SftRunConfig

    config = load_config(arguments.recipe, arguments.overrides, SftRunConfig)
    if arguments.dry_run:
        return _print_config(config.model_dump(mode="json"))
    from megatron_longrlvr.trainer.sft import run_sft

    return run_sft(config)


def _evaluate(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.evaluation.command import evaluate_target

    metrics = evaluate_target(arguments.target, arguments.overrides)
    if metrics is not None and arguments.json is not None:
        arguments.json.write_text(json.dumps(metrics, indent=2) + "\n")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.reporting.page import build_report

    path = build_report(arguments.run_dirs, arguments.output, title=arguments.title)
    print(path)  # noqa: T201 - the command's result
    return 0


def _world_size() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def _print_config(content: object) -> int:
    print(json.dumps(content, indent=2))  # noqa: T201 - the command's result
    return 0
