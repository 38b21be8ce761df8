"""A rank that loads a share of a Hugging Face folder reads that share, not the whole files.

Counted are the bytes of the slices that were asked for. Not covered: torch_dist, which
megatron-core reads.
"""

import pytest

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
