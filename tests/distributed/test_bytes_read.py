"""A rank that loads a share of a Hugging Face folder reads that share, not the whole files.

The same holds for a checkpoint that was converted from it or saved by another layout. Counted are
the bytes of the slices that were asked for, and what the process read besides.
"""

from pathlib import Path

import pytest

from megatron_longrlvr.checkpoint.manifest import checkpoint_directory
from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.ranks import Ranks
from tests.distributed.test_conversion import load_and_save
from tests.support.learners import start_policy
from tests.support.tiny_models import save_tiny_model

LARGER = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 1024}
# Norms are on every rank.
SMALL_SHARE_BYTES = 10_000


def num_bytes(chunks):
    return sum(p.numel() * p.element_size() for chunk in chunks for p in chunk.parameters())


def load_safetensors(_rank, world_size, layout, folder):
    from megatron_longrlvr.model import hf_weights

    read, total = hf_weights.HfReader, []

    class Counting(read):
        def read(self, *arguments):
            values = super().read(*arguments)
            total.append(values.nbytes)
            return values

    hf_weights.HfReader = Counting
    try:
        policy = start_policy(folder, layout, world_size)
    finally:
        hf_weights.HfReader = read
    return sum(total), num_bytes(policy.chunks)


@pytest.fixture
def folder(tmp_path):
    save_tiny_model(tmp_path / "hf", "llama", **LARGER)
    return tmp_path / "hf"


def test_rank_reads_its_share_of_safetensors(pool2, folder):
    whole = (folder / "model.safetensors").stat().st_size
    for read, held in pool2.run(load_safetensors, {"tp": 2}, folder):
        assert read == held
        assert read < whole / 2 + SMALL_SHARE_BYTES


def bytes_of_read_calls():
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def load_torch_dist(_rank, world_size, layout, folder, weights):
    """Load weights of any layout into a policy that started from ``folder``."""
    from megatron_longrlvr.checkpoint import own_slices
    from megatron_longrlvr.checkpoint.weights import read_weights

    reader, sliced = own_slices.TorchDistReader, []

    class Counting(reader):
        def read(self, *arguments):
            values = super().read(*arguments)
            sliced.append(values.nbytes)
            return values

    policy = start_policy(folder, layout, world_size)
    own_slices.TorchDistReader = Counting
    try:
        before = bytes_of_read_calls()
        read_weights(weights, policy.chunks, policy.groups, are_alone=False)
        besides = bytes_of_read_calls() - before
    finally:
        own_slices.TorchDistReader = reader
    return sum(sliced), num_bytes(policy.chunks), besides


# Index, common state and headers of chunks; one rank's share of the weights has 2 MB.
INDEX_BYTES = 500_000


@pytest.mark.parametrize("layout", [{"tp": 2}, {"pp": 2}], ids=["tp2", "pp2"])
def test_rank_reads_its_share_of_a_checkpoint(pool1, pool2, folder, tmp_path, layout):
    run_import(plan_import(folder), tmp_path / "megatron", ranks=Ranks())
    pool1.run(load_and_save, {}, folder, tmp_path / "run")
    for weights in (tmp_path / "megatron", checkpoint_directory(tmp_path / "run", 0)):
        loaded = pool2.run(load_torch_dist, layout, folder, weights / "learner")
        for sliced, held, besides in loaded:
            assert sliced == held > 4 * INDEX_BYTES
            assert besides < INDEX_BYTES
