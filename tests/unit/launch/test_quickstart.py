"""The quickstart refuses what it does not understand, before it installs or starts anything.

What it does when it understands is training; that is tried end to end elsewhere.
"""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "launch" / "quickstart.sh"


def quickstart(*arguments):
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd="/", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--stps", "3"], "unknown option --stps", id="unknown-option"),
        pytest.param(["--steps"], "--steps needs a value", id="value-missing"),
        pytest.param(["--steps", "1.5"], "--steps must be a positive number, got 1.5", id="part"),
        pytest.param(["--procs", "0"], "--procs must be a positive number, got 0", id="none"),
        pytest.param(["tiny_cpu"], "tiny_cpu is neither an option nor key=value", id="bare-word"),
        pytest.param(["run.dir=x"], "run.dir is set by the quickstart", id="its-own-key"),
    ],
)
def test_unknown_argument_is_named_and_nothing_starts(arguments, message):
    result = quickstart(*arguments)
    assert result.returncode == 2
    assert result.stderr == f"quickstart: {message} (see --help)\n"
    assert result.stdout == ""


def test_help_names_every_option_that_is_read():
    told = quickstart("--help").stdout
    options = ["--recipe", "--steps", "--procs", "--dir", "--dry-run", "--help", "key=value"]
    assert [option for option in options if f"\n  {option}" not in told] == []
    assert "set -euo" not in told
