"""Run parts of the test suite, one after the other, and record what came of them.

    python tools/record_tests.py tests/records/python312.json tests/unit tests/distributed

A part is a path that pytest takes. What the record says of other parts stays, so that a long suite
can be run in several calls; each part has its commit beside its numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = ("megatron-core", "transformers", "numpy")


def main() -> int:
    """Read arguments, run and record; 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path, help="JSON file to add to")
    parser.add_argument("parts", nargs="+", help="paths for pytest, each run by itself")
    arguments = parser.parse_args()
    has_failed = False
    for part in arguments.parts:
        result = run_part(part)
        write(arguments.record, part, result)
        has_failed = has_failed or result["failed"] > 0
        print(f"{part}: {result}")
    return int(has_failed)


def run_part(part: str) -> dict[str, Any]:
    """Counts, names of what failed, reasons of what was skipped, and seconds of one part."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", part]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [
        case for case in cases if any(case.find(tag) is not None for tag in ("failure", "error"))
    ]
    skips = [found for case in cases if (found := case.find("skipped")) is not None]
    reasons = [skip.get("message", "") for skip in skips]
    return {
        "passed": len(cases) - len(bad) - len(skips),
        "failed": len(bad),
        "failures": sorted(f"{case.get('classname')}::{case.get('name')}" for case in bad),
        "skipped": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "seconds": round(sum(float(case.get("time", 0)) for case in cases), 1),
        "commit": git("rev-parse", "HEAD"),
    }


def write(path: Path, part: str, result: dict[str, Any]) -> None:
    """Put a part's result into the record, with what it was run on."""
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    parts = dict(sorted({**parts, part: result}.items()))
    record = {
        "what": "test suite, part by part (tools/record_tests.py), on a machine with other work",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # says which build it is
            **{package: version(package) for package in PACKAGES},
        },
        "folders": {
            folder: totals([one for name, one in parts.items() if name.startswith(folder)])
            for folder in sorted({"/".join(name.split("/")[:2]) for name in parts})
        },
        "parts": parts,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def totals(results: list[dict[str, Any]]) -> dict[str, float]:
    """Counts and seconds of several parts."""
    return {
        "passed": sum(one["passed"] for one in results),
        "failed": sum(one["failed"] for one in results),
        "skipped": sum(sum(one["skipped"].values()) for one in results),
        "seconds": round(sum(one["seconds"] for one in results)),
    }


def git(*arguments: str) -> str:
    """What a git command prints."""
    found = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
