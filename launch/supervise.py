"""The questions a job script asks: may this attempt start, and what comes after it?

    python -m launch.supervise begin    --run-dir DIR --attempt DIR --steps N ...
    python -m launch.supervise conclude --run-dir DIR --attempt DIR --nodes N ...
    python -m launch.supervise unfit    --run-dir DIR --attempt DIR --bad NODES ...

``begin`` exits with 0 where the attempt may start, 3 where the run is finished, 78 where it is
refused. ``conclude`` exits with 72 where the job is to be requeued, 77 where it is to be once Slurm
has had time to notice a lost node, otherwise with the job's exit code. ``unfit`` does so for an
attempt that ends before its ranks start, because preflight found nodes unfit.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import slurm
from launch.exit_reason import (
    REQUEUE_EXIT_CODE,
    AttemptExit,
    Cause,
    NodeExit,
    read_attempt_exit,
    write_attempt_exit,
    write_node_exit,
)
from launch.requeue import (
    Begin,
    Limits,
    checkpoint_step,
    conclude,
    is_finished,
    list_attempts,
    read_begin,
    refusal,
    write_begin,
)

FINISHED_BEFORE_EXIT_CODE = 3
REQUEUE_LATER_EXIT_CODE = 77

_log = logging.getLogger("job")


def _begin(parsed: argparse.Namespace) -> int:
    if parsed.steps > 0 and is_finished(parsed.run_dir, parsed.steps):
        _log.info("%s is finished: %d steps", parsed.run_dir, parsed.steps)
        return FINISHED_BEFORE_EXIT_CODE
    begin = Begin(
        job_id=os.environ.get("SLURM_JOB_ID", "0"),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        checkpoint_step=checkpoint_step(parsed.run_dir),
        started=time.time(),
    )
    problem = _other_job(parsed.run_dir, begin.job_id)
    problem = problem or refusal(parsed.run_dir, begin, _limits(parsed))
    write_begin(parsed.attempt, begin)
    if problem is None:
        _log.info("restart %d, from step %d", begin.restarts, begin.checkpoint_step)
        return 0
    refused = AttemptExit.refused(problem)
    write_attempt_exit(parsed.attempt, refused)
    _log.error("not started: %s", problem)
    return refused.exit_code


def _other_job(run_dir: Path, own: str) -> str | None:
    """Says which other job runs in this directory; two would write over each other."""
    attempts = [one for one in list_attempts(run_dir) if read_attempt_exit(one) is None]
    for job_id in sorted({read_begin(one).job_id for one in attempts} - {own, "0"}):
        try:
            is_running = slurm.job_state(job_id).state == "RUNNING"
        except RuntimeError:  # no Slurm in this container, or it is down
            continue
        if is_running:
            return f"job {job_id} runs in {run_dir} and has not ended"
    return None


def _conclude(parsed: argparse.Namespace) -> int:
    ended = conclude(
        parsed.attempt,
        begin=read_begin(parsed.attempt),
        num_nodes=parsed.nodes,
        is_warned=parsed.warned,
        is_terminated=parsed.terminated,
        limits=_limits(parsed),
    )
    write_attempt_exit(parsed.attempt, ended)
    where = f" on {ended.node}" if ended.node else ""
    _log.info("%s%s: %s; %s", ended.cause.value, where, ended.detail, ended.next_step)
    if not ended.is_requeued:
        return ended.exit_code
    return REQUEUE_LATER_EXIT_CODE if ended.cause is Cause.LOST else REQUEUE_EXIT_CODE


def _unfit(parsed: argparse.Namespace) -> int:
    write_node_exit(
        parsed.attempt,
        NodeExit(
            role="preflight",
            node=parsed.bad,
            cause=Cause.UNFIT,
            detail=f"{parsed.bad} found unfit; see preflight-NODE.json",
            at=time.time(),
        ),
    )
    parsed.nodes, parsed.warned, parsed.terminated = 1, False, False
    return _conclude(parsed)


def _limits(parsed: argparse.Namespace) -> Limits:
    return Limits(max_restarts=parsed.max_restarts, max_stalled=parsed.max_stalled)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one of them."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s job: %(message)s", stream=sys.stderr
    )
    parser = argparse.ArgumentParser(prog="python -m launch.supervise", description=__doc__)
    questions = parser.add_subparsers(required=True)
    for name, answer in (("begin", _begin), ("conclude", _conclude), ("unfit", _unfit)):
        question = questions.add_parser(name)
        question.set_defaults(answer=answer)
        question.add_argument("--run-dir", type=Path, required=True)
        question.add_argument("--attempt", type=Path, required=True)
        question.add_argument("--max-restarts", type=int, required=True)
        question.add_argument("--max-stalled", type=int, required=True)
        if name == "begin":
            question.add_argument("--steps", type=int, default=0, help="0: never finished before")
        elif name == "unfit":
            question.add_argument("--bad", required=True, help="nodes, comma-separated")
        else:
            question.add_argument("--nodes", type=int, required=True)
            question.add_argument("--warned", action="store_true")
            question.add_argument("--terminated", action="store_true")
    parsed = parser.parse_args(arguments)
    code: int = parsed.answer(parsed)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
