"""Samples told to Transformer Engine's attention are those that the plan tells our own.

A CPU stand-in computes what Transformer Engine documents (tests/support/fused_attention.py); loss,
gradients and log-probabilities are those of the planned attention on one rank, with padding, in the
layouts that cut a sequence. That the real one computes the same is for tests/gpu.
"""

from unittest import mock

import pytest

from megatron_longrlvr.model import build, fused_attention
from tests.distributed.test_shared_prompt import REPEATED, SHARED, assert_same_results, one_pass
from tests.support.fused_attention import CpuDotProductAttention
from tests.support.tiny_models import save_tiny_model


def fused_pass(rank, world_size, folder, layout, algorithm, model):
    """As ``one_pass``, in fp32 for the sake of the comparison; the kernels take bf16 alone."""
    unchecked = {"attention": "transformer_engine", **model}
    with (
        mock.patch.object(build, "require_transformer_engine"),
        mock.patch.object(fused_attention, "TEDotProductAttention", CpuDotProductAttention),
    ):
        return one_pass(rank, world_size, folder, layout, algorithm, {"unchecked": unchecked})


def refusal(rank, world_size, folder, layout, algorithm, model):
    try:
        fused_pass(rank, world_size, folder, layout, algorithm, model)
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llama"
    save_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def reference(folder, pool1):
    return pool1.run(one_pass, folder, {}, REPEATED, {})[0]


@pytest.mark.parametrize(
    ("layout", "model"),
    [
        pytest.param({}, {}, id="dp2"),
        pytest.param({"cp": 2}, {"key_exchange": "p2p"}, id="cp2-ring"),
        pytest.param({"cp": 2}, {"key_exchange": "a2a", "recompute": "selective"}, id="cp2-a2a"),
        pytest.param({"tp": 2, "sequence_parallel": True}, {"recompute": "full"}, id="tp2-sp"),
        pytest.param({"pp": 2}, {}, id="pp2"),
    ],
)
def test_fused_attention_gives_what_the_planned_one_gives(pool2, folder, reference, layout, model):
    assert_same_results(pool2.run(fused_pass, folder, layout, REPEATED, model), reference)


def test_samples_that_share_a_prompt_are_refused(pool1, folder):
    (found,) = pool1.run(refusal, folder, {}, SHARED, {})
    assert "set algorithm.shared_prompt=false" in found
