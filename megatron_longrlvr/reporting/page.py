"""The report: one HTML file that shows what some runs logged.

It needs no network and computes nothing new. What a policy wrote is untrusted: it travels as JSON
in a script element that no browser runs, and the page's own script puts it into text nodes, never
into markup. A content security policy with the hashes of the page's two scripts keeps everything
else from running.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.reporting.payload import build_payload, read_audit, to_script_json
from megatron_longrlvr.reporting.rollouts import MAX_ROLLOUTS
from megatron_longrlvr.reporting.run_record import RunRecord, load_runs

STYLES = ("vendor/uPlot.min.css", "css/base.css", "css/sections.css", "css/rollouts.css")
SCRIPTS = (
    "js/dom.js",
    "js/store.js",
    "js/plots.js",
    "js/heatmap.js",
    "js/tables.js",
    "js/virtual_list.js",
    "js/word_diff.js",
    "js/rollout_view.js",
    "js/rollout_browser.js",
    "js/sections.js",
    "js/live.js",
    "js/main.js",
)
"""In this order, as one script."""

_MAX_NAMED_RUNS = 2  # a title with more names is no title


def build_report(
    run_dirs: Sequence[Path],
    output: Path,
    *,
    title: str | None = None,
    audit: Path | None = None,
    max_rollouts: int = MAX_ROLLOUTS,
) -> Path:
    """Build a report over one or several runs.

    Args:
        run_dirs: Each with ``config.json``; ``provenance.json``, ``metrics.jsonl`` and ``samples``
            are said to be missing where they are.
        output: The HTML file; written whole or not at all.
        title: Defaults to the names of the runs.
        audit: JSON of a data audit, shown in a section of its own.
        max_rollouts: Over all runs.

    Returns:
        ``output``.

    Raises:
        ValueError: A file cannot be read; the message names it.
    """
    runs = load_runs(run_dirs)
    payload = build_payload(
        runs,
        title=title or default_title(runs),
        audit=None if audit is None else read_audit(audit),
        max_rollouts=max_rollouts,
    )
    write_atomically(output, render_page(payload))
    return output


def render_page(payload: Mapping[str, Any], *, refresh_s: float | None = None) -> str:
    """Put data, styles and scripts into one page.

    Args:
        payload: From :func:`build_payload`.
        refresh_s: Seconds between two looks for newer data, for a page that is served.
    """
    library, script = _read("vendor/uPlot.iife.min.js"), _script()
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in (library, script))
    # A page from disk asks nobody for anything.
    connect = "'none'" if refresh_s is None else "'self'"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(_read("page.html")).render(
        title=payload["title"],
        policy=(
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
            f"img-src data:; connect-src {connect}; base-uri 'none'; form-action 'none'"
        ),
        styles=Markup("\n".join(_read(name) for name in STYLES)),
        library=Markup(library),
        script=Markup(script),
        data=Markup(to_script_json(payload)),
        refresh_s=refresh_s or 0,
    )
    # The title may hold halves of surrogate pairs, which no file takes.
    return page.encode("utf-8", errors="replace").decode("utf-8")


def default_title(runs: Sequence[RunRecord]) -> str:
    """Names of the runs, or their number."""
    if len(runs) > _MAX_NAMED_RUNS:
        return f"{len(runs)} runs"
    return " and ".join(run.label for run in runs)


def _script() -> str:
    parts = "\n".join(_read(name) for name in SCRIPTS)
    return f'(function () {{\n"use strict";\n{parts}\n}})();\n'


@cache
def _read(name: str) -> str:
    assets = resources.files("megatron_longrlvr.reporting") / "assets"
    return assets.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
