"""The command line of the synthesis: ``longrlvr data {run,stage,merge,status}``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_longrlvr.config.synthesis import SynthesisConfig

_LIBRARIES = ("datasketch", "httpcore2", "py3langid", "pyarrow", "pypdf", "selectolax", "sklearn")
_NOTHING_LEFT = 1

_EXAMPLES = """
From documents to a training file, stage by stage; a recipe is a YAML file or a shipped one
(recipes/synthesis.yaml), key=value replaces its settings:

  longrlvr data run RECIPE --dry-run           calls, tokens and cost ahead
  longrlvr data run RECIPE                     every stage that is not done
  longrlvr data stage generate RECIPE          one of them
  longrlvr data status RECIPE                  what each came to, and what was dropped

Repeated after an interruption, a command goes on item by item. Several machines share documents:

  longrlvr data run RECIPE --until dedup       once
  longrlvr data run RECIPE --shard 3/16        on each, from chunk to evidence
  longrlvr data merge RECIPE --shards 16       once; then `data run RECIPE` writes the file

Exit codes: 0 done, 1 the audit found errors in the training file, 2 a setting or a file is wrong,
75 models did not reply to some requests (the same command asks again).
"""


def add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its parts."""
    data = commands.add_parser(
        "data",
        help="make training questions from documents",
        description="Make training questions from documents.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = data.add_subparsers(required=True, metavar="PART")
    run = _part(parts, "run", "run every stage that is not done")
    _add_shard(run)
    _add_dry_run(run)
    run.add_argument("--until", metavar="STAGE", help="stop behind this stage")
    run.set_defaults(run=_run)
    stage = _part(parts, "stage", "run one stage", has_stage=True)
    _add_shard(stage)
    _add_dry_run(stage)
    stage.set_defaults(run=_stage)
    merge = _part(parts, "merge", "put the shards of several machines together")
    merge.add_argument("--shards", type=int, required=True, metavar="N")
    merge.set_defaults(run=_merge)
    status = _part(parts, "status", "say what each stage came to")
    _add_shard(status)
    status.set_defaults(run=_status)


def _part(
    parts: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    *,
    has_stage: bool = False,
) -> argparse.ArgumentParser:
    parser = parts.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    if has_stage:
        parser.add_argument("stage", metavar="STAGE", help="read, clean, dedup, chunk, embed, ...")
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or name of a shipped recipe")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's"
    )
    return parser


def _add_shard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard", metavar="I/N", help="part I (from 0) of N of the documents, chunk to evidence"
    )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="check the recipe, estimate calls and cost, stop"
    )


# Libraries are imported inside the commands, so that --help answers at once.


def _run(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.data.synthesis.command import stages_until

    names = None if arguments.until is None else stages_until(arguments.until)
    return _run_stages(arguments, names)


def _stage(arguments: argparse.Namespace) -> int:
    return _run_stages(arguments, [arguments.stage])


def _run_stages(arguments: argparse.Namespace, names: Sequence[str] | None) -> int:
    from megatron_longrlvr.data.synthesis.command import run_stages, show_estimate

    config = _load(arguments)
    if arguments.dry_run:
        show_estimate(config, shard=arguments.shard)
        return 0
    num_rows = run_stages(config, names=names, shard=arguments.shard)
    is_last = arguments.shard is None and (names is None or "export" in names)
    return _audit(config, num_rows) if is_last else 0


def _merge(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.data.synthesis.command import merge_shards

    merge_shards(_load(arguments), num_shards=arguments.shards)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from megatron_longrlvr.data.synthesis.command import show_status

    show_status(_load(arguments), shard=arguments.shard)
    return 0


def _audit(config: SynthesisConfig, num_rows: int) -> int:
    """Look at the training file as ``longrlvr audit`` does."""
    from megatron_longrlvr.data.audit.report import AuditRequest
    from megatron_longrlvr.data.reachability import Cut
    from megatron_longrlvr.data.synthesis.command import training_file
    from megatron_longrlvr.reporting.audit_command import audit, default_workers

    path = training_file(config)
    if num_rows == 0:
        print("no question is left; `longrlvr data status` says why")  # noqa: T201
        return _NOTHING_LEFT
    request = AuditRequest(
        data=(path,),
        eval_data=(),
        tokenizer=Path(config.clean.tokenizer),
        max_prompt_tokens=config.export.max_prompt_tokens,
        cut=Cut.LEFT,
        num_workers=default_workers((path,)),
    )
    report = audit(request, json_path=Path(config.run.dir) / "audit.json", html_path=None)
    print(path)  # noqa: T201 - the command's result
    return 0 if report.is_acceptable(strict=False) else 1


def _load(arguments: argparse.Namespace) -> SynthesisConfig:
    from megatron_longrlvr.config.checks import check_synthesis_config
    from megatron_longrlvr.config.load import load_config
    from megatron_longrlvr.config.synthesis import SynthesisConfig
    from megatron_longrlvr.errors import ConfigError

    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"longrlvr data needs {', '.join(missing)}: pip install 'megatron-longrlvr[data]'"
        )
    config = load_config(arguments.recipe, arguments.overrides, SynthesisConfig)
    check_synthesis_config(config)
    return config
