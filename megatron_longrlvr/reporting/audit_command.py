"""``longrlvr audit``: run the audit, show it, write it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from megatron_longrlvr.data.audit.report import AuditReport, AuditRequest
from megatron_longrlvr.data.audit.run import run_audit
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.reporting.audit_page import render_audit
from megatron_longrlvr.reporting.audit_table import print_audit

# Below this, starting processes takes longer than reading.
_ONE_PROCESS_BYTES = 20_000_000
_MOST_WORKERS = 16


def audit(request: AuditRequest, *, json_path: Path | None, html_path: Path | None) -> AuditReport:
    """Audit files with progress on standard error and the outcome on standard output.

    Raises:
        ConfigError: The tokenizer cannot be read.
        DataError: A file is absent or of an unknown kind.
    """
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.completed} records"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task("", total=None)
        report = run_audit(request, on_rows=lambda count: progress.advance(task, count))
    print_audit(report, Console())
    if json_path is not None:
        write_atomically(json_path, json.dumps(report.to_json(), indent=1) + "\n")
    if html_path is not None:
        write_atomically(html_path, render_audit(report))
    return report


def default_workers(paths: tuple[Path, ...]) -> int:
    """One process for a small file, else one a core."""
    size = sum(path.stat().st_size for path in paths if path.is_file())
    if size < _ONE_PROCESS_BYTES:
        return 1
    return max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0))))
