"""Are these nodes fit? Asked on each of them before the ranks start.

    srun --ntasks-per-node=1 ... python -m launch.preflight nodes --attempt DIR --gpus N ...
    python -m launch.preflight verdict --attempt DIR --nodes "node1 node2"

``nodes`` leaves ``preflight-NODE.json`` with what was found; a node that cannot even do that is the
worst. Nodes without a problem of their own then exchange tensors with their neighbours (links.py).
``verdict`` prints the unfit nodes in one line, comma-separated, empty when all are fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.agent import slurm_place
from launch.links import Exchange, Finding, blamed, describe_links, measure_links
from launch.ports import reserved_port
from launch.rendezvous import Place
from megatron_longrlvr.files import write_atomically

_POLL_S = 0.2
_NVIDIA_SMI_TIMEOUT_S = 60


def check_node(
    attempt: Path,
    place: Place,
    *,
    peers: Sequence[str],
    gpus: int,
    wait_s: float,
    max_skew_s: float,
) -> list[str]:
    """What is wrong with this node, one sentence each; called on all nodes at the same time.

    Args:
        attempt: On the file system that the nodes are meant to share.
        place: This node.
        peers: Names of all nodes of the job.
        gpus: That the node must have.
        wait_s: For a file of the first node to appear here.
        max_skew_s: Between this node's clock and the first one's.
    """
    return [
        *_check_shared(attempt / "canary.json", place, wait_s=wait_s, max_skew_s=max_skew_s),
        *_check_names(peers),
        *_check_port(),
        *(_check_gpus(gpus) if gpus else ()),
    ]


def report_path(attempt: Path, node: str) -> Path:
    """Where a node's findings go."""
    return attempt / f"preflight-{node}.json"


def write_report(
    attempt: Path,
    node: str,
    problems: Sequence[str],
    links: Mapping[str, Finding] | None = None,
) -> None:
    """Leave the findings for the job script; ``links`` by the neighbour's name."""
    found = {name: asdict(finding) for name, finding in (links or {}).items()}
    report = {"problems": list(problems), "links": found}
    write_atomically(report_path(attempt, node), json.dumps(report) + "\n")


def unfit_nodes(
    attempt: Path, nodes: Sequence[str], *, min_gb_per_s: float = 0.0
) -> dict[str, list[str]]:
    """Problems by node, of the nodes that have any; a missing report is one.

    Args:
        attempt: With the reports.
        nodes: That should have left one.
        min_gb_per_s: Links below this are too slow.
    """
    problems = {}
    for node in nodes:
        report = _read_report(attempt, node)
        if report is None:
            problems[node] = ["left no report: it cannot start a process or write to run.dir"]
        elif report["problems"]:
            problems[node] = report["problems"]
    # A node with a problem of its own has not exchanged anything, and its neighbours have waited.
    links = {
        link: finding
        for link, finding in link_findings(attempt, nodes).items()
        if not set(link) & problems.keys()
    }
    bad = [
        link
        for link, finding in links.items()
        if finding.problem or finding.gb_per_s < min_gb_per_s
    ]
    for node in blamed(bad, list(links)):
        problems[node] = [
            _describe_link(link, links[link], min_gb_per_s) for link in bad if node in link
        ]
    return problems


def link_findings(attempt: Path, nodes: Sequence[str]) -> dict[tuple[str, str], Finding]:
    """What was found about each link, from its worse end."""
    worst: dict[tuple[str, str], Finding] = {}
    for node in nodes:
        report = _read_report(attempt, node) or {"links": {}}
        for neighbour, content in report["links"].items():
            finding = Finding(**content)
            link = (min(node, neighbour), max(node, neighbour))
            if link not in worst or finding.gb_per_s < worst[link].gb_per_s:
                worst[link] = finding
    return worst


def _read_report(attempt: Path, node: str) -> dict[str, Any] | None:
    path = report_path(attempt, node)
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _describe_link(link: tuple[str, str], finding: Finding, min_gb_per_s: float) -> str:
    said = finding.problem or (
        f"{finding.gb_per_s:.2f} GB/s is below min_all_reduce_gb_per_s={min_gb_per_s:g}"
    )
    return f"exchanges no tensors as it should: {link[0]} with {link[1]}: {said}"


def _check_shared(canary: Path, place: Place, *, wait_s: float, max_skew_s: float) -> Iterator[str]:
    if place.index == 0:
        write_atomically(canary, json.dumps({"at": time.time()}) + "\n")
        return
    start = time.monotonic()
    while not canary.is_file():
        if time.monotonic() - start > wait_s:
            yield f"{canary} of the first node did not appear in {wait_s:g} s: not a shared folder"
            return
        time.sleep(_POLL_S)
    waited = time.monotonic() - start
    behind = json.loads(canary.read_text(encoding="utf-8"))["at"] - time.time()
    # The file is as old as this node is late; only a file from the future shows a skew exactly.
    if behind > max_skew_s or -behind > max_skew_s + waited + wait_s:
        yield f"its clock is {abs(behind):.0f} s off the first node's"


def _check_names(peers: Sequence[str]) -> Iterator[str]:
    for peer in peers:
        try:
            socket.getaddrinfo(peer, None)
        except OSError as error:
            yield f"cannot resolve the name {peer}: {error}"


def _check_port() -> Iterator[str]:
    try:
        with reserved_port(os.getpid()):
            pass
    except (OSError, RuntimeError) as error:
        yield f"no port to listen at: {error}"


def _check_gpus(wanted: int) -> Iterator[str]:
    if shutil.which("nvidia-smi") is None:
        yield f"{wanted} GPUs wanted, and nvidia-smi is not there"
        return
    query = ["nvidia-smi", "--query-gpu=index,ecc.errors.uncorrected.volatile.total"]
    try:
        shown = subprocess.run(
            [*query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
            check=True,
        ).stdout
    except (subprocess.SubprocessError, OSError) as error:
        yield f"nvidia-smi fails, as it does with a lost GPU: {error}"
        return
    yield from gpu_problems(shown, wanted)


def gpu_problems(shown: str, wanted: int) -> Iterator[str]:
    """Problems in nvidia-smi's lines ``INDEX, UNCORRECTED_ERRORS``."""
    lines = [line for line in shown.splitlines() if line.strip()]
    if len(lines) < wanted:
        yield f"{wanted} GPUs wanted, {len(lines)} found"
    for line in lines:
        index, _, errors = line.partition(",")
        if re.fullmatch(r"[1-9]\d*", errors.strip()):
            yield f"GPU {index.strip()} has {errors.strip()} uncorrected memory errors"


def _nodes(parsed: argparse.Namespace) -> int:
    place, nodes = slurm_place(), parsed.nodes.split()
    problems = check_node(
        parsed.attempt,
        place,
        peers=nodes,
        gpus=parsed.gpus,
        wait_s=parsed.wait,
        max_skew_s=parsed.max_skew,
    )
    write_report(parsed.attempt, place.name, problems)
    if problems or len(nodes) < 2 or parsed.all_reduce_mib == 0:
        return 0
    exchange = Exchange(
        gpus=parsed.gpus, mib=parsed.all_reduce_mib, timeout_s=parsed.all_reduce_timeout
    )
    links: dict[str, Finding] = {}
    for neighbour, finding in measure_links(
        parsed.attempt, place.name, nodes, exchange, wait_s=parsed.wait
    ):
        links[neighbour] = finding
        # After each of them: this process may be ended before the next.
        write_report(parsed.attempt, place.name, problems, links)
    return 0


def _verdict(parsed: argparse.Namespace) -> int:
    nodes = parsed.nodes.split()
    if figures := {
        link: finding.gb_per_s for link, finding in link_findings(parsed.attempt, nodes).items()
    }:
        print(f"preflight: {describe_links(figures)}", file=sys.stderr)  # noqa: T201
    unfit = unfit_nodes(parsed.attempt, nodes, min_gb_per_s=parsed.min_all_reduce)
    for node, problems in unfit.items():
        for problem in problems:
            print(f"preflight: {node} {problem}", file=sys.stderr)  # noqa: T201
    print(",".join(unfit))  # noqa: T201 - the job script reads it
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Check this node, or sum up what the nodes have found."""
    parser = argparse.ArgumentParser(prog="python -m launch.preflight", description=__doc__)
    questions = parser.add_subparsers(required=True)
    for name, answer in (("nodes", _nodes), ("verdict", _verdict)):
        question = questions.add_parser(name)
        question.set_defaults(answer=answer)
        question.add_argument("--attempt", type=Path, required=True)
        question.add_argument("--nodes", required=True, help="names, separated by blanks")
        if name == "nodes":
            question.add_argument("--gpus", type=int, default=0)
            question.add_argument("--wait", type=float, default=60, help="seconds")
            question.add_argument("--max-skew", type=float, default=5, help="seconds")
            question.add_argument("--all-reduce-mib", type=int, default=64, help="0: none")
            question.add_argument("--all-reduce-timeout", type=float, default=60, help="seconds")
        else:
            question.add_argument("--min-all-reduce", type=float, default=0, help="GB/s")
    parsed = parser.parse_args(arguments)
    code: int = parsed.answer(parsed)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
