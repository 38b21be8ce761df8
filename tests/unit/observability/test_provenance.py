"""Provenance: the checkout that made a run, and every start of it."""

import hashlib
import json
import subprocess
from importlib import metadata

import pytest

from megatron_longrlvr.observability.provenance import (
    GitState,
    collect_provenance,
    read_git_state,
    record_header,
    write_provenance,
)


def git(directory, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    result = subprocess.run(
        ["git", "-C", str(directory), *identity, *arguments], capture_output=True, check=True
    )
    return result.stdout


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_clean_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD").decode().strip()
    assert len(commit) == 40
    assert read_git_state(checkout / "package") == GitState(
        commit=commit, is_dirty=False, diff_sha256=None
    )


def test_changed_file_is_in_the_hash(checkout):
    (checkout / "package" / "code.py").write_text("x = 2\n")
    state = read_git_state(checkout / "package")
    assert state.is_dirty
    assert state.diff_sha256 == hashlib.sha256(git(checkout, "diff", "HEAD")).hexdigest()


def test_untracked_file_makes_the_checkout_dirty(checkout):
    (checkout / "new.py").write_text("")
    state = read_git_state(checkout / "package")
    assert (state.is_dirty, state.diff_sha256) == (True, None)


def test_checkout_that_does_not_track_the_package_is_not_its_own(checkout):
    environment = checkout / ".venv" / "package"
    environment.mkdir(parents=True)
    (environment / "code.py").write_text("")
    assert read_git_state(environment) is None


def test_directory_outside_a_checkout_has_no_state(tmp_path):
    assert read_git_state(tmp_path) is None


def test_library_versions_are_those_installed():
    versions = collect_provenance(gpu_names=[]).library_versions
    assert versions["numpy"] == metadata.version("numpy")
    assert "vllm-that-nobody-installed" not in versions


def test_record_says_what_was_measured_where_and_on_which_code():
    header = record_header("seconds of nothing", note="alone", more_libraries=["hypothesis"])
    assert list(header) == ["what", "commit", "machine", "load_average", "versions"]
    assert header["what"] == "seconds of nothing"
    assert header["machine"].endswith(" cores, alone")
    assert header["versions"]["hypothesis"] == metadata.version("hypothesis")
    assert header["versions"]["numpy"] == metadata.version("numpy")


def test_resumed_run_keeps_its_earlier_starts(tmp_path):
    for index in range(3):
        start = collect_provenance(gpu_names=["H100"] * index, command=["train", str(index)])
        write_provenance(start, tmp_path)
    content = json.loads((tmp_path / "provenance.json").read_text())
    assert content["command"] == ["train", "2"]
    assert content["gpu_names"] == ["H100", "H100"]
    assert [start["command"] for start in content["earlier_starts"]] == [
        ["train", "0"],
        ["train", "1"],
    ]


def test_broken_file_is_named(tmp_path):
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(ValueError, match=r"provenance\.json is not JSON"):
        write_provenance(collect_provenance(gpu_names=[]), tmp_path)
