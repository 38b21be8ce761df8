"""Only whole checkpoints count, whatever a crash, a full disk or a person did to the others.

A save that is killed at any of its steps, a removal that is killed half-way, a truncated or a
missing file: none of them is ever offered for resuming, and the newest whole one always is.
"""

import json
import logging
import math
import shutil
from pathlib import Path

import pytest

from megatron_longrlvr.checkpoint.manifest import (
    MANIFEST_FILE,
    Best,
    Manifest,
    check_hashes,
    checkpoint_directory,
    file_sizes,
    fingerprint,
    latest,
    list_checkpoints,
    partial_directory,
    prune,
    publish,
    read_checkpoint,
    replaced_directory,
    sha256,
    write_manifest,
)
from megatron_longrlvr.errors import CheckpointError

WEIGHTS = b"weights of a tiny model"


def manifest(step, directory, **measured):
    return Manifest(
        step=step,
        policy_version=2 * step,
        layout={"world_size": 4, "tp": 2},
        dtype="fp32",
        is_optimizer_distributed=True,
        config_fingerprint="f" * 64,
        bytes_by_file=file_sizes(directory),
        sha256_by_file={name: sha256(directory / name) for name in file_sizes(directory)},
        metrics=measured,
        library_versions={"torch": "2.13.0"},
        saved_utc="2026-01-02T03:04:05+00:00",
    )


def write_files(directory):
    (directory / "learner").mkdir(parents=True)
    (directory / "learner" / "weights.distcp").write_bytes(WEIGHTS)
    (directory / "state.json").write_text("{}")


@pytest.fixture
def save(tmp_path):
    def save_step(step, **measured):
        directory = checkpoint_directory(tmp_path, step)
        write_files(directory)
        write_manifest(directory, manifest(step, directory, **measured))
        return directory

    return save_step


def steps(run_dir):
    return [checkpoint.manifest.step for checkpoint in list_checkpoints(run_dir)]


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_run_without_checkpoints_has_none(tmp_path):
    assert list_checkpoints(tmp_path) == ()
    assert latest(tmp_path) is None
    prune(tmp_path, 1)


def test_manifest_comes_back_as_written_with_the_size_of_every_other_file(save):
    directory = save(120)
    assert directory.name == "step_000120"
    found = read_checkpoint(directory)
    assert found.directory == directory
    assert found.manifest == manifest(120, directory)
    assert found.manifest.bytes_by_file == {
        "learner/weights.distcp": len(WEIGHTS),
        "state.json": 2,
    }


def test_checkpoints_are_in_order_of_their_steps_as_numbers(tmp_path, save):
    # As names, step_1000000 comes before step_999999.
    for step in (1_000_000, 20, 999_999):
        save(step)
    assert steps(tmp_path) == [20, 999_999, 1_000_000]
    assert latest(tmp_path).manifest.step == 1_000_000


def lose_manifest(directory):
    (directory / MANIFEST_FILE).unlink()


def truncate_manifest(directory):
    path = directory / MANIFEST_FILE
    path.write_text(path.read_text()[:-20])


def drop_manifest_field(directory):
    path = directory / MANIFEST_FILE
    content = json.loads(path.read_text())
    del content["bytes_by_file"]
    path.write_text(json.dumps(content))


def empty_manifest_field(directory):
    path = directory / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256_by_file": None}))


def hide_manifest(directory):
    lose_manifest(directory)
    (directory / MANIFEST_FILE).mkdir()


def truncate_weights(directory):
    (directory / "learner" / "weights.distcp").write_bytes(WEIGHTS[:-1])


def lose_weights(directory):
    (directory / "learner" / "weights.distcp").unlink()


DAMAGES = [
    pytest.param(lose_manifest, r"manifest\.json is missing", id="no-manifest"),
    pytest.param(truncate_manifest, r"manifest\.json is not a manifest", id="cut-manifest"),
    pytest.param(drop_manifest_field, "is not a manifest.*bytes_by_file", id="manifest-field"),
    pytest.param(empty_manifest_field, "is not a manifest: sha256_by_file", id="null-in-manifest"),
    pytest.param(hide_manifest, "is not a manifest.*Errno 21", id="unreadable-manifest"),
    pytest.param(truncate_weights, r"weights\.distcp has 22 bytes instead of 23", id="cut-file"),
    pytest.param(lose_weights, r"weights\.distcp is missing", id="no-file"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_checkpoint_is_skipped_with_a_warning_that_names_it(
    tmp_path, save, caplog, damage, message
):
    save(10)
    newest = save(20)
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path).manifest.step == 10
    assert str(newest) in caplog.text
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(newest)


def test_directory_under_another_name_is_not_taken_for_that_step(tmp_path, save):
    save(10).rename(checkpoint_directory(tmp_path, 30))
    assert steps(tmp_path) == []


def test_unfinished_save_is_never_listed_even_with_its_manifest_written(tmp_path, save, caplog):
    save(10)
    partial = save(20)
    partial = partial.rename(partial_directory(partial))
    with caplog.at_level(logging.WARNING):
        assert steps(tmp_path) == [10]
    assert str(partial) in caplog.text


def test_prune_keeps_the_newest(tmp_path, save):
    for step in (10, 20, 30, 40):
        save(step)
    prune(tmp_path, 2)
    assert names(tmp_path) == ["step_000030", "step_000040"]
    prune(tmp_path, 5)
    assert names(tmp_path) == ["step_000030", "step_000040"]


def test_prune_counts_whole_checkpoints_only(tmp_path, save):
    for step in (10, 20, 30):
        save(step)
    truncate_weights(checkpoint_directory(tmp_path, 30))
    prune(tmp_path, 2)
    assert steps(tmp_path) == [10, 20]


def test_prune_counts_no_checkpoint_of_a_step_that_the_run_is_not_at(tmp_path, save):
    # 40 keeps its sizes and has lost its contents, so the run was resumed from 10.
    for step in (10, 20, 40):
        save(step, f2=step / 100)
    prune(tmp_path, 1, Best(metric="f2", is_largest=True), last_step=20)
    assert names(tmp_path) == ["best", "step_000020", "step_000040"]
    assert (tmp_path / "checkpoints" / "best").readlink() == Path("step_000020")


def test_checkpoint_that_was_put_elsewhere_keeps_its_files(tmp_path, save):
    archive = tmp_path / "archive"
    save(10).rename(archive)
    checkpoint_directory(tmp_path, 10).symlink_to(archive)
    save(20)
    assert steps(tmp_path) == [10, 20]
    prune(tmp_path, 1)
    assert names(tmp_path) == ["step_000020"]
    assert (archive / MANIFEST_FILE).is_file()


def test_link_to_a_checkpoint_is_replaced_by_a_new_one_of_its_step(tmp_path, save):
    directory = save(10)
    directory.rename(tmp_path / "archive")
    directory.symlink_to(tmp_path / "archive")
    for _ in range(2):
        write_files(partial_directory(directory))
        publish(partial_directory(directory), directory)
    assert names(tmp_path) == ["step_000010"]
    assert (tmp_path / "archive" / MANIFEST_FILE).is_file()


def test_file_with_the_name_of_a_checkpoint_is_left_alone(tmp_path, save):
    save(20)
    checkpoint_directory(tmp_path, 10).write_text("a note")
    prune(tmp_path, 1)
    assert names(tmp_path) == ["step_000010", "step_000020"]


def test_prune_removes_what_killed_saves_left_up_to_the_newest_whole_step(tmp_path, save):
    for step in (10, 20, 40):
        save(step)
    (tmp_path / "checkpoints" / "notes").mkdir()
    lose_manifest(checkpoint_directory(tmp_path, 10))
    for step in (5, 20, 30):
        write_files(partial_directory(checkpoint_directory(tmp_path, step)))
    write_files(replaced_directory(checkpoint_directory(tmp_path, 20)))
    # Being written right now, for all we know.
    write_files(partial_directory(checkpoint_directory(tmp_path, 50)))
    prune(tmp_path, 2)
    assert names(tmp_path) == ["notes", "step_000020", "step_000040", "step_000050.partial"]


def test_prune_without_a_whole_checkpoint_removes_nothing(tmp_path, save):
    lose_manifest(save(10))
    write_files(partial_directory(checkpoint_directory(tmp_path, 5)))
    prune(tmp_path, 1)
    assert names(tmp_path) == ["step_000005.partial", "step_000010"]


def test_removal_that_is_cut_short_leaves_nothing_that_looks_whole(tmp_path, save, monkeypatch):
    for step in (10, 20):
        save(step)

    def killed(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, 1)
    assert steps(tmp_path) == [20]
    monkeypatch.undo()
    prune(tmp_path, 1)
    assert names(tmp_path) == ["step_000020"]


def test_prune_keeps_the_best_one_as_well_under_a_name_of_its_own(tmp_path, save):
    for step, measured in ((10, {"f2": 0.5}), (20, {"f2": 0.9}), (30, {}), (40, {"f2": 0.7})):
        save(step, **measured)
    prune(tmp_path, 1, Best(metric="f2", is_largest=True))
    assert steps(tmp_path) == [20, 40]
    assert (tmp_path / "checkpoints" / "best").readlink() == Path("step_000020")
    # A better one takes its place, and its name.
    save(50, f2=0.95)
    prune(tmp_path, 1, Best(metric="f2", is_largest=True))
    assert names(tmp_path) == ["best", "step_000050"]
    assert (tmp_path / "checkpoints" / "best").readlink() == Path("step_000050")


@pytest.mark.parametrize(("is_largest", "best"), [(True, 30), (False, 20)])
def test_among_equals_the_newest_is_the_best(tmp_path, save, is_largest, best):
    for step, f2 in ((10, 0.9), (20, 0.5), (30, 0.9)):
        save(step, f2=f2)
    found = Best(metric="f2", is_largest=is_largest).of(list_checkpoints(tmp_path))
    assert found.manifest.step == best


def test_what_could_not_be_measured_is_not_the_best(tmp_path, save):
    for step, f2 in ((10, math.nan), (20, 0.5)):
        save(step, f2=f2)
    for is_largest in (True, False):
        found = Best(metric="f2", is_largest=is_largest).of(list_checkpoints(tmp_path))
        assert found.manifest.step == 20


def test_nothing_is_best_where_nothing_was_measured(tmp_path, save):
    save(10, loss=1.0)
    assert Best(metric="f2", is_largest=True).of(list_checkpoints(tmp_path)) is None


def test_a_file_that_kept_its_size_and_lost_its_contents_is_named(tmp_path, save):
    save(10)
    checkpoint = latest(tmp_path)
    every = list(checkpoint.manifest.sha256_by_file)
    check_hashes(checkpoint, every)
    path = checkpoint.directory / "learner" / "weights.distcp"
    path.write_bytes(WEIGHTS.swapcase())
    assert latest(tmp_path) is not None, "sizes do not tell"
    with pytest.raises(CheckpointError, match=r"weights\.distcp has changed"):
        check_hashes(checkpoint, every)


def test_keeping_none_is_refused(tmp_path, save):
    save(10)
    with pytest.raises(ValueError, match="keep=0"):
        prune(tmp_path, 0)
    assert steps(tmp_path) == [10]


def test_fingerprint_follows_values_and_not_the_order_of_keys():
    recipe = {"model": {"path": "a", "dtype": "fp32"}, "steps": 3}
    reordered = {"steps": 3, "model": {"dtype": "fp32", "path": "a"}}
    assert fingerprint(recipe) == fingerprint(reordered)
    assert fingerprint(recipe) != fingerprint(recipe | {"steps": 4})
