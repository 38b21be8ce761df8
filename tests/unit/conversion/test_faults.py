"""What goes wrong in a conversion is named, and no folder is left that looks whole.

Not covered: a disk that is full (the size of files is limited instead), loss of power.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_longrlvr.conversion.comparison import Verdict, compare_tensors, open_tensors
from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.megatron_to_hf import plan_export, run_export
from megatron_longrlvr.conversion.ranks import Ranks
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.errors import CheckpointError
from tests.support.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[3]
WEIGHTS = "model.safetensors"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path):
    save_tiny_model(tmp_path / "hf", "qwen3", num_layers=2)
    return tmp_path / "hf"


@pytest.fixture
def converted(folder, tmp_path):
    run_import(plan_import(folder), tmp_path / "megatron", ranks=Ranks())
    return tmp_path / "megatron"


def change(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        plan_import(folder)
    return str(caught.value)


def test_missing_tensor_is_named(folder):
    change(folder, lambda tensors: tensors.pop(Q_PROJ))
    assert Q_PROJ in refusal(folder)


def test_extra_tensor_is_named_with_its_file(folder):
    change(folder, lambda tensors: tensors.update({"model.extra": torch.zeros(1)}))
    text = refusal(folder)
    assert "model.extra" in text
    assert str(folder / WEIGHTS) in text


def test_misshaped_tensor_is_named_with_its_file(folder):
    change(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ][1:].clone()}))
    text = refusal(folder)
    assert Q_PROJ in text
    assert str(folder / WEIGHTS) in text


@pytest.mark.parametrize(
    ("dtype", "message"), [(torch.int32, "I32"), (torch.bfloat16, "--dtype")], ids=str
)
def test_wrong_dtype_is_named(folder, dtype, message):
    change(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].to(dtype)}))
    text = refusal(folder)
    assert message in text
    assert str(folder / WEIGHTS) in text


def test_truncated_file_is_named(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in refusal(folder)


def test_missing_shard_is_named(folder):
    names = dict.fromkeys(load_file(folder / WEIGHTS), "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00001.safetensors" in refusal(folder)


def test_existing_target_is_replaced_only_when_asked(folder, converted):
    before = (converted / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match="--overwrite"):
        run_import(plan_import(folder), converted, ranks=Ranks())
    assert (converted / "manifest.json").read_bytes() == before
    (converted / "old").write_text("")
    run_import(plan_import(folder), converted, ranks=Ranks(), overwrite=True)
    assert not (converted / "old").exists()


def test_overwrite_does_not_remove_what_is_no_checkpoint(folder, tmp_path):
    target = tmp_path / "papers"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run_import(plan_import(folder), target, ranks=Ranks(), overwrite=True)
    assert (target / "thesis.txt").read_text() == "years of work"


# Less than the weights of either format, more than a header.
FILE_LIMIT_BYTES = 64 * 1024


@contextmanager
def small_files():
    """Writes beyond the limit fail with EFBIG, where a full disk gives ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_failed_write_names_tensor_and_file_and_leaves_nothing(folder, tmp_path):
    work = plan_import(folder)
    with small_files(), pytest.raises(CheckpointError, match=r"tensor \S+ to \S+__0_0\.distcp"):
        run_import(work, tmp_path / "target", ranks=Ranks())
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_failed_export_leaves_nothing(converted, tmp_path):
    work = plan_export(find_source(converted))
    with small_files(), pytest.raises(CheckpointError):
        run_export(work, tmp_path / "target", ranks=Ranks())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "megatron"]


# Kills itself where the weights are written and nothing declares them complete yet.
KILLED = """
import os, signal, sys
from pathlib import Path
from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.ranks import Ranks
work = plan_import(Path(sys.argv[1]))
written = 0
def advance(done):
    global written
    written += done
    if written == work.plan.nbytes:
        os.kill(os.getpid(), signal.SIGKILL)
run_import(work, Path(sys.argv[2]), ranks=Ranks(), advance=advance)
"""


def test_killed_conversion_leaves_no_target_and_the_next_one_starts_clean(folder, tmp_path):
    target = tmp_path / "target"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(folder), str(target)]
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    (tmp_path / "target.partial" / "stray").write_text("")
    run_import(plan_import(folder), target, ranks=Ranks())
    assert not (tmp_path / "target.partial").exists()
    assert not (target / "stray").exists()
    find_source(target)


@pytest.mark.parametrize("name", ["learner/__0_0.distcp", "config.json"])
def test_damaged_checkpoint_is_refused_with_the_file(converted, name):
    path = converted / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=path.name):
        find_source(converted)


def test_comparison_finds_one_changed_value(folder, converted):
    change(folder, lambda tensors: tensors[Q_PROJ][0, 0].add_(0.5))
    with open_tensors(folder) as first, open_tensors(converted) as second:
        results = list(compare_tensors(first, second))
    (different,) = [one for one in results if one.verdict is not Verdict.EQUAL]
    assert (different.name, different.verdict) == (Q_PROJ, Verdict.DIFFERENT)
    assert different.max_abs_diff == pytest.approx(0.5)


def test_comparison_names_what_only_one_folder_has(folder, converted):
    change(folder, lambda tensors: tensors.update({"more": tensors.pop(Q_PROJ)}))
    with open_tensors(folder) as first, open_tensors(converted) as second:
        results = {one.name: one.verdict for one in compare_tensors(first, second)}
    assert results.pop("more") is Verdict.MISSING
    assert results.pop(Q_PROJ) is Verdict.EXTRA
    assert set(results.values()) == {Verdict.EQUAL}
