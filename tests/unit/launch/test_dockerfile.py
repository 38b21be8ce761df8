"""The Dockerfile: everything is pinned, what it copies is there, and it ends without root.

An image cannot be built here. Its list of packages is held against pyproject.toml and the CPU
lists; hadolint reads it where it is installed; the smoke test at its end runs here as it is.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Installed beside the interpreter, by tests/requirements.txt.
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
# What vLLM holds back behind the versions of the CPU lists.
HELD_BACK_BY_VLLM = {"numpy", "setuptools", "numba", "llvmlite", "apache-tvm-ffi"}


def instructions():
    """(keyword, arguments) of each, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def of(keyword):
    return [arguments for name, arguments in instructions() if name == keyword]


def pins(name):
    """Version by package that a list asks for on Python 3.12."""
    found = {}
    for line in (ROOT / "launch" / name).read_text().splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.12"}):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            found[requirement.name.lower()] = specifier.version
    return found


def test_both_stages_stand_on_the_pinned_base():
    (base,) = of("ARG")[:1]
    assert re.fullmatch(r"BASE_IMAGE=nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3", base)
    assert [stage.split()[0] for stage in of("FROM")] == ["${BASE_IMAGE}"] * 2


def test_everything_that_is_installed_is_pinned():
    installs = [part for run in of("RUN") for part in run.split("&&") if " install " in part]
    assert len(installs) == 5
    for install in installs:
        assert "--no-deps" in install
        *_, wanted = install.split()
        assert (
            wanted in {"requirements-gpu.txt", "."}
            or re.search(r"==[\d.]+$", wanted)
            or re.search(r'@[0-9a-f]{40}"$', wanted)
        ), install


def test_last_stage_runs_as_a_user_without_a_name_to_look_up():
    last = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    (uid,) = re.findall(r"^USER (\d+)$", last, re.MULTILINE)
    assert int(uid) > 0
    assert f"--uid {uid}" in last
    assert "launch.smoke_test" in last[last.index("USER") :]


def test_what_is_copied_is_in_the_context():
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = [copy.split()[:-1] for copy in of("COPY") if not copy.startswith("--from")]
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists(), path
        assert path.split("/")[0] in allowed, path


def test_list_holds_what_this_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = pins("requirements-gpu.txt")
    asked = [*project["dependencies"], *extras["megatron"], *extras["data"], *extras["convert"]]
    for requirement in map(Requirement, [*asked, *extras["vllm"]]):
        assert requirement.specifier.contains(listed[requirement.name.lower()]), requirement


@pytest.mark.parametrize("name", ["requirements-cpu.txt", "requirements-vllm-cpu.txt"])
def test_versions_are_those_that_the_tests_run_with(name):
    listed = pins("requirements-gpu.txt")
    differing = {
        package
        for package, version in pins(name).items()
        if package in listed and listed[package] != version
    }
    assert differing <= HELD_BACK_BY_VLLM


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    done = subprocess.run(
        [HADOLINT, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def smoke_test(*modules):
    command = [sys.executable, "-m", "launch.smoke_test", *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_smoke_test_passes_here():
    done = smoke_test("torch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: ") == 4


def test_smoke_test_ends_at_what_is_missing():
    done = smoke_test("no_such_module")
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stderr
