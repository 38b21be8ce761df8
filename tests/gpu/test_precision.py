"""Log-probabilities and gradients of bf16 and of every FP8 recipe against fp32, on one GPU.

The bounds, and where they come from, are in tests/support/gpu_bounds.py.
"""

import pytest

from tests.support.gpu_bounds import BF16, FP8, within
from tests.support.gpu_checks import REPEATED, distances
from tests.support.gpu_marks import needs, needs_gpu, needs_package
from tests.support.gpu_models import TINY, save_model
from tests.support.spawn import run_distributed

pytestmark = needs_gpu

FP32 = {"dtype": "fp32"}
TE = {"dtype": "bf16", "layers": "transformer_engine"}


def fp8(kind, **settings):
    return {**TE, "fp8": {"kind": kind, **settings}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), TINY)


def distance(folder, settings, expected=FP32, algorithm=None):
    others = {"it": settings}
    arguments = (folder, expected, others) + (() if algorithm is None else (algorithm,))
    return run_distributed(distances, 1, *arguments)[0]["it"]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_bf16_is_near_fp32(folder, recompute):
    found = distance(folder, {"dtype": "bf16", "recompute": recompute})
    assert within(found, BF16), found


@needs("te")
@pytest.mark.parametrize("expected", [FP32, {"dtype": "bf16"}], ids=["fp32", "local-layers"])
def test_layers_of_transformer_engine_are_near(folder, expected):
    found = distance(folder, TE, expected)
    assert within(found, BF16), found


@needs("te")
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(fp8("delayed"), marks=needs("fp8"), id="delayed"),
        pytest.param(fp8("current"), marks=needs("fp8"), id="current"),
        pytest.param(fp8("blockwise"), marks=needs("blockwise"), id="blockwise"),
        pytest.param(fp8("mxfp8"), marks=needs("mxfp8"), id="mxfp8"),
        pytest.param(fp8("current", parameters=True), marks=needs("fp8"), id="fp8-weights"),
        pytest.param(
            fp8("current", bf16_layers_at_start=1, bf16_layers_at_end=1),
            marks=needs("fp8"),
            id="edges-in-bf16",
        ),
    ],
)
def test_fp8_is_near_fp32(folder, settings):
    found = distance(folder, settings)
    assert within(found, FP8), found
    assert not within(found, {"logprob_mean": 1e-4}), "nothing was computed in FP8"


@needs("te")
def test_fused_attention_is_near_fp32(folder):
    found = distance(folder, {"dtype": "bf16", "attention": "transformer_engine"}, FP32, REPEATED)
    assert within(found, BF16), found


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(3, marks=[needs_package("flash_attn_interface"), needs("fp8")]),
        pytest.param(4, marks=needs_package("flash_attn.cute")),
    ],
)
def test_later_flash_attention_is_near_fp32(folder, version):
    found = distance(folder, {"dtype": "bf16", "attention": f"flash_attention_{version}"})
    assert within(found, BF16), found


@needs("te")
@pytest.mark.parametrize(
    "offload",
    [
        {"kind": "layers", "num_layers": 2},
        {"kind": "modules", "modules": ["core_attn", "attn_proj", "mlp_norm"]},
    ],
    ids=["layers", "modules"],
)
def test_offloaded_activations_change_nothing(folder, offload):
    found = distance(folder, {**TE, "offload": offload}, TE)
    # Flash attention adds up a key's gradient in an order of its own each time.
    assert found["logprob_max"] == 0
    assert found["gradient_rel"] < BF16["gradient_rel"] / 10, found
