"""The command line: ``longrlvr {train,sft,serve,evaluate,score,report,audit,plan,data,theory}``.

Everything a command does lives in the packages; this file reads arguments and turns the errors
that a person can mend into one line and an exit code.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_longrlvr import __version__
from megatron_longrlvr.aligner.presence import find_presence
from megatron_longrlvr.cli_data import add_data
from megatron_longrlvr.errors import (
    CheckpointError,
    CheckpointWriterKilled,
    ConfigError,
    DataError,
    JudgeUnavailable,
    NonFiniteUpdate,
    PolicyMismatch,
    RefitMismatch,
    ServersUnavailable,
)

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
  longrlvr train tiny_cpu layout.pp=2 --dry-run --world-size 8     builds the ranks' models too

The same command goes on after an interruption, from the last checkpoint, and does nothing when
the run is finished. Exit codes: 0 finished, 1 failed, 2 a setting or a file is wrong, 74 the
process that writes checkpoints was killed, 75 stopped because the judge gave too few verdicts, 130
stopped by a signal after the step in progress.
torchrun makes 1 of each but 0; from the checkout, these end with the code of the ranks:

  python -m launch.torchrun --nproc-per-node 2 -m megatron_longrlvr train tiny_cpu
  python -m launch local tiny_cpu --procs 2
"""
_SFT_EXAMPLES = """
Makes the starting model of the toy task from random weights. The result is a Hugging Face folder,
hf/ in the run directory, that a GRPO recipe's model.path can name:

  longrlvr sft toy_sft run.dir=runs/start
  longrlvr train tiny_cpu model.path=runs/start/hf
"""
_SERVE_EXAMPLES = """
Runs vLLM's server with the options that a run of this recipe needs (rollout.engine=vllm_server),
for nodes that the run does not reach by itself; rollout.server.urls tells the run where it is:

  longrlvr serve my.yaml --port 8000
  longrlvr train my.yaml 'rollout.server.urls=[http://node7:8000]' \\
      rollout.server.transport=broadcast

`python -m launch submit my.yaml --server-nodes N` does both in one job.
"""
_EVALUATE_EXAMPLES = """
Give a run directory to measure its newest checkpoint, or a recipe to measure the model it starts
from. The recipe's evaluation section says on what:

  longrlvr evaluate runs/quickstart/longrlvr
  longrlvr evaluate runs/quickstart/longrlvr evaluation.temperature=0 evaluation.num_prompts=512
  longrlvr evaluate tiny_cpu --json start.json

A benchmark is asked from local files. Its settings are a YAML file, see config/benchmark.py:

  longrlvr evaluate runs/mine --benchmark ruler.yaml --output outputs/ruler
  torchrun --nproc-per-node 2 -m megatron_longrlvr evaluate runs/mine layout.tp=1 \\
      rollout.engine=vllm_colocated --benchmark ruler.yaml --output outputs/ruler

Settings behind the name replace the recipe's. Data-parallel ranks share out the questions and write
the same file; the command repeated goes on where it was stopped.
"""
_SCORE_EXAMPLES = """
Scores responses that are already there, by the published rule of their benchmark and by stricter
ones, with 95 % intervals. Formats of RULER, LongBench v2, LongReason and samples/*.jsonl are
recognised; name the fields of any other:

  longrlvr score outputs/ruler.jsonl outputs/longreason.jsonl.gz
  longrlvr score before.jsonl after.jsonl --compare --json scores.json --csv scores.csv
  longrlvr score mine.jsonl --field response=output --field reference=target --field id=key
"""
_REPORT_EXAMPLES = """
Builds one self-contained HTML page from what the runs logged: curves, maps of where evidence is
found, rollouts to search and compare, timing, health, configuration. It needs no network, and
secrets are left out of it:

  longrlvr report runs/quickstart/outcome_only runs/quickstart/longrlvr --output report.html
  longrlvr report runs/mine --output report.html --audit audit.json --png figures/
"""
_WATCH_EXAMPLES = """
Serves the page of `longrlvr report` and brings it up to date while the run goes on:

  longrlvr watch runs/mine
  longrlvr watch runs/outcome_only runs/longrlvr --port 8000
  ssh -L 8000:localhost:8000 cluster           and open http://localhost:8000 at home

It listens on this machine alone. With --host it can be reached from others; the address that it
prints then holds a token, without which nothing is shown. LONGRLVR_WATCH_TOKEN may give one.
"""
_AUDIT_EXAMPLES = """
Reads JSON lines and parquet in either schema and reports what training would refuse or learn
wrongly: malformed records, bad evidence ids, evidence beyond the prompt limit, leaked answers,
near-duplicate questions, overlap with evaluation data.

  longrlvr audit train.parquet --tokenizer MODEL_DIR --max-prompt 32768
  longrlvr audit a.jsonl b.jsonl --tokenizer MODEL_DIR --max-prompt 32768 --eval heldout.jsonl \\
      --json audit.json --html audit.html --strict

Exit codes: 0 no errors (with --strict: nothing at all) was found, 1 something was, 2 a setting or
a file name is wrong.
"""
_PLAN_EXAMPLES = """
Says what a recipe takes on a cluster: GiB of each rank by term, seconds of a step by phase. Needs
neither GPU nor weights: a model that is not there is known by the name of its folder.

  longrlvr plan llama31_70b --cluster h100:8x16
  longrlvr plan llama31_70b --cluster h100:8x16 --search --json plan.json
  longrlvr plan my.yaml --cluster h200:8x4 layout.cp=4 --html plan.html --png plan.png
  longrlvr plan my.yaml --cluster b200:8x8 --prompt-tokens 40000 --response-tokens 800 \\
      --price-per-gpu-hour 2.5

Time is computed for the longest prompts and responses of the recipe, or for the mean lengths given;
memory always for the longest. Nothing in it was measured on the cluster. Exit codes: 0 it can run,
1 it does not fit, 2 a setting is wrong.
"""
_THEORY_EXAMPLES = """
Computes, on the small model in which the paper argues, the gradient that each reward sends to an
evidence chunk, by formula and from samples, and trains on it. Writes theory.json and figures:

  longrlvr theory --output theory/
"""


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="longrlvr",
        description="Reinforcement learning of long-context language models on megatron-core, "
        "with verifiable context rewards.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _command(commands, "train", "train a policy with GRPO", _TRAIN_EXAMPLES, _train)
    _add_recipe(train)
    train.add_argument(
        "--world-size",
        type=_positive,
        metavar="N",
        help="with --dry-run: build what the distinct ranks of N hold, without memory or weights",
    )
    sft = _command(commands, "sft", "train on demonstrations of the toy task", _SFT_EXAMPLES, _sft)
    _add_recipe(sft)

    serve = _command(commands, "serve", "run a rollout server", _SERVE_EXAMPLES, _serve)
    _add_recipe(serve)
    serve.add_argument("--host", default="0.0.0.0", help="default: all interfaces")
    serve.add_argument("--port", type=_positive, required=True, metavar="N")

    evaluate = _command(
        commands, "evaluate", "measure a policy on held-out prompts", _EVALUATE_EXAMPLES, _evaluate
    )
    evaluate.add_argument("target", metavar="RUN_DIR|RECIPE")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES_HELP)
    evaluate.add_argument(
        "--benchmark", metavar="FILE", help="ask RULER-QA, LongBench v2 or LongReason instead"
    )
    evaluate.add_argument(
        "--output", type=Path, metavar="DIR", help="where the benchmark's outputs go; can go on"
    )
    evaluate.add_argument(
        "--json", type=_new_file, metavar="FILE", help="write the metrics here too"
    )

    score = _command(commands, "score", "score files of model outputs", _SCORE_EXAMPLES, _score)
    score.add_argument("files", nargs="+", type=Path, metavar="FILE")
    score.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="field of an unknown format; roles: response, reference, id, cell, evidence, stored",
    )
    score.add_argument(
        "--compare", action="store_true", help="test the second file against the first"
    )
    score.add_argument("--json", type=_new_file, metavar="FILE", help="write everything here too")
    score.add_argument("--csv", type=_new_file, metavar="FILE", help="write the scores here too")
    score.add_argument(
        "--processes", type=_positive, metavar="N", help="default: one for each core"
    )

    _add_report(commands)
    _add_audit(commands)
    _add_plan(commands)
    add_data(commands)
    theory = _command(commands, "theory", "compute the paper's claim", _THEORY_EXAMPLES, _theory)
    theory.add_argument("--output", type=Path, required=True, metavar="DIR")
    theory.add_argument("--seed", type=int, default=0)
    theory.add_argument("--samples", type=_positive, default=400_000, help="per sampled gradient")
    theory.add_argument("--steps", type=_positive, default=400, help="of each learning curve")
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
    except (CheckpointWriterKilled, JudgeUnavailable, ServersUnavailable) as error:
        print(f"longrlvr: {error}", file=sys.stderr)  # noqa: T201
        return error.EXIT_CODE
    except (CheckpointError, NonFiniteUpdate, PolicyMismatch, RefitMismatch) as error:
        print(f"longrlvr: {error}", file=sys.stderr)  # noqa: T201
        return FAILED_EXIT_CODE
    return code


def _version() -> str:
    return f"longrlvr {__version__} ({find_presence().describe()})"


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


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = _command(commands, "report", "build the HTML report", _REPORT_EXAMPLES, _report)
    report.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    report.add_argument("--output", type=_new_file, required=True, metavar="FILE")
    report.add_argument("--title", help="heading of the page")
    report.add_argument(
        "--audit", type=Path, metavar="FILE", help="show a data audit (longrlvr audit --json)"
    )
    report.add_argument(
        "--png", type=_new_folder, metavar="DIR", help="write the charts here as PNG, for papers"
    )
    report.add_argument(
        "--max-rollouts",
        type=_positive,
        default=10_000,
        metavar="N",
        help="rollouts on the page, spread over the run (default: 10000)",
    )
    watch = _command(commands, "watch", "serve the report live", _WATCH_EXAMPLES, _watch)
    watch.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    watch.add_argument("--port", type=int, default=8265, help="0 takes any (default: 8265)")
    watch.add_argument("--host", default="127.0.0.1", help="address to listen at")
    watch.add_argument(
        "--refresh", type=_positive, default=10, metavar="SECONDS", help="between two looks"
    )
    watch.add_argument("--title", help="heading of the page")


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    audit = _command(commands, "audit", "check data files before training", _AUDIT_EXAMPLES, _audit)
    audit.add_argument("data", nargs="+", type=Path, metavar="DATA", help=".jsonl or .parquet")
    audit.add_argument("--tokenizer", type=Path, required=True, metavar="MODEL_DIR")
    audit.add_argument("--max-prompt", type=_positive, required=True, metavar="TOKENS")
    audit.add_argument(
        "--cut",
        choices=["left", "right", "middle"],
        default="left",
        help="where longer prompts lose tokens; training cuts on the left (default)",
    )
    audit.add_argument(
        "--eval", nargs="+", type=Path, default=[], metavar="DATA", help="data that is measured on"
    )
    audit.add_argument("--json", type=_new_file, metavar="FILE", help="write every finding here")
    audit.add_argument("--html", type=_new_file, metavar="FILE", help="write one HTML page here")
    audit.add_argument("--strict", action="store_true", help="fail on warnings as well")
    audit.add_argument("--workers", type=_positive, help="processes; default one a core")


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = _command(commands, "plan", "say what a recipe takes", _PLAN_EXAMPLES, _plan)
    plan.add_argument("recipe", metavar="RECIPE", help="YAML file, or name of a shipped recipe")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES_HELP)
    plan.add_argument(
        "--cluster", required=True, metavar="KIND:GPUSxNODES", help="e.g. h100:8x16; a100 to gb200"
    )
    plan.add_argument("--search", action="store_true", help="find the fastest layouts that fit")
    plan.add_argument("--prompt-tokens", type=_positive, metavar="N", help="mean, for the time")
    plan.add_argument("--response-tokens", type=_positive, metavar="N", help="mean, for the time")
    plan.add_argument(
        "--price-per-gpu-hour", type=_price, metavar="X", help="for the cost of a step"
    )
    plan.add_argument("--html", type=_new_file, metavar="FILE", help="write one HTML page here")
    plan.add_argument("--png", type=_new_file, metavar="FILE", help="write a picture here")
    plan.add_argument("--json", type=_new_file, metavar="FILE", help="write everything here")


def _price(text: str) -> float:
    price = float(text)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return price


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _new_file(text: str) -> Path:
    """Refused before the work rather than after it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory, must be a file")
    return path


def _new_folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file, must be a directory")
    return path


# Heavy libraries are imported inside the commands, so that --help and --dry-run answer at once.


def _train(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.config.load import load_config
    from megatron_longrlvr.config.schema import TrainConfig

    config = load_config(arguments.recipe, arguments.overrides, TrainConfig)
    if arguments.world_size is not None:
        if not arguments.dry_run:
            raise ConfigError("--world-size is for --dry-run; torchrun or srun start the ranks")
        from megatron_longrlvr.trainer.dry_run import dry_run

        dry_run(config, world_size=arguments.world_size)
        return 0
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


def _serve(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.config.load import load_config
    from megatron_longrlvr.config.schema import TrainConfig
    from megatron_longrlvr.trainer.serving import command_for, serve

    config = load_config(arguments.recipe, arguments.overrides, TrainConfig)
    if arguments.dry_run:
        print(shlex.join(command_for(config).arguments))  # noqa: T201 - the command's result
        return 0
    serve(config, host=arguments.host, port=arguments.port)


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.benchmark is not None:
        return _evaluate_benchmark(arguments)
    from megatron_longrlvr.evaluation.command import evaluate_target
    from megatron_longrlvr.files import write_atomically

    metrics = evaluate_target(arguments.target, arguments.overrides)
    if metrics is not None and arguments.json is not None:
        write_atomically(arguments.json, json.dumps(metrics, indent=2) + "\n")
    return 0


def _evaluate_benchmark(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.evaluation.benchmarks.command import evaluate_benchmark

    if arguments.output is None:
        raise ConfigError("--benchmark needs --output DIR for the outputs")
    evaluate_benchmark(
        arguments.target,
        arguments.overrides,
        benchmark=arguments.benchmark,
        folder=arguments.output,
        json_path=arguments.json,
    )
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.evaluation.scoring.command import (
        ScoreOptions,
        parse_field_mapping,
        score_files,
    )

    options = ScoreOptions(
        paths=arguments.files,
        field_by_role=parse_field_mapping(arguments.field),
        has_comparison=arguments.compare,
        json_path=arguments.json,
        csv_path=arguments.csv,
        num_processes=arguments.processes,
    )
    score_files(options)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.reporting.page import build_report

    try:
        path = build_report(
            arguments.run_dirs,
            arguments.output,
            title=arguments.title,
            audit=arguments.audit,
            max_rollouts=arguments.max_rollouts,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(path)  # noqa: T201 - the command's result
    if arguments.png is not None:
        from megatron_longrlvr.reporting.figures import write_figures
        from megatron_longrlvr.reporting.run_record import load_runs

        figures = write_figures(load_runs(arguments.run_dirs), arguments.png)
        print("\n".join(map(str, figures)))  # noqa: T201
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.reporting.watch import WatchRequest, watch

    watch(
        WatchRequest(
            run_dirs=tuple(arguments.run_dirs),
            host=arguments.host,
            port=arguments.port,
            refresh_s=arguments.refresh,
            title=arguments.title,
        ),
        say=lambda text: print(text, flush=True),  # noqa: T201 - the command's voice
    )
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.data.audit.report import AuditRequest
    from megatron_longrlvr.data.reachability import Cut
    from megatron_longrlvr.reporting.audit_command import audit, default_workers

    paths = (*arguments.data, *arguments.eval)
    request = AuditRequest(
        data=tuple(arguments.data),
        eval_data=tuple(arguments.eval),
        tokenizer=arguments.tokenizer,
        max_prompt_tokens=arguments.max_prompt,
        cut=Cut(arguments.cut),
        num_workers=arguments.workers or default_workers(paths),
    )
    report = audit(request, json_path=arguments.json, html_path=arguments.html)
    return 0 if report.is_acceptable(strict=arguments.strict) else FAILED_EXIT_CODE


def _plan(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.reporting.plan_command import PlanRequest, plan_recipe

    request = PlanRequest(
        recipe=arguments.recipe,
        overrides=arguments.overrides,
        cluster=arguments.cluster,
        is_search=arguments.search,
        prompt_tokens=arguments.prompt_tokens,
        response_tokens=arguments.response_tokens,
        price_per_gpu_hour=arguments.price_per_gpu_hour,
        json_path=arguments.json,
        html_path=arguments.html,
        png_path=arguments.png,
    )
    return 0 if plan_recipe(request) else FAILED_EXIT_CODE


def _theory(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.theory.command import study_theory

    paths = study_theory(
        arguments.output,
        seed=arguments.seed,
        num_samples=arguments.samples,
        num_steps=arguments.steps,
    )
    print("\n".join(map(str, paths)))  # noqa: T201 - the command's result
    return 0


def _world_size() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def _print_config(content: object) -> int:
    print(json.dumps(content, indent=2))  # noqa: T201 - the command's result
    return 0
