"""What is to be measured on a GPU, measured small on CPU: the comparisons can tell, and can fail.

The bounds of tests/gpu are held here by bf16, and by FP8 as it is emulated; FP8 is outside of those
of bf16.
"""

from dataclasses import replace

import pytest
import torch

from megatron_longrlvr.planner.workload import Lengths
from tests.support.gpu_bounds import (
    ATTENTION_ERROR,
    BF16,
    FP8,
    PLANNED_MEMORY_RTOL,
    logprobs_hold_no_logits,
    within,
)
from tests.support.gpu_checks import (
    GROUPS,
    attention_errors,
    distances,
    logprob_peaks,
    planned_and_measured,
    update_rate,
)
from tests.support.gpu_models import TINY, save_model

REFERENCE = {"dtype": "fp32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), TINY)


def test_bf16_and_emulated_fp8_are_within_their_bounds(pool1, folder):
    (found,) = pool1.run(
        distances,
        folder,
        REFERENCE,
        {
            "same": {"dtype": "fp32", "recompute": "full"},
            "bf16": {"dtype": "bf16"},
            "fp8": {"dtype": "bf16", "emulate_fp8": True},
        },
    )
    assert found["same"]["gradient_rel"] < 1e-5
    assert within(found["bf16"], BF16)
    assert within(found["fp8"], FP8)
    assert not within(found["fp8"], BF16), "FP8 is coarser than bf16, and the bounds show it"


def test_attention_is_within_its_bounds():
    for dtype, bound in ATTENTION_ERROR.items():
        errors = attention_errors(GROUPS, dtype=dtype)
        assert max(errors.values()) < bound


def test_memory_of_logprobs_grows_with_tokens_and_not_with_logits(pool1):
    spec = replace(TINY, num_layers=2)
    (rows,) = pool1.run(logprob_peaks, spec, (512, 1024), 64, {"logprob_chunk_tokens": 32})
    size = {"chunk_tokens": 32, "vocab_size": spec.vocab_size}
    assert logprobs_hold_no_logits(rows, **size), rows
    # All logits of the samples, if they existed.
    worse = [{**row, "peak_bytes": row["peak_bytes"] + 4 * row["tokens"] * 128256} for row in rows]
    assert not logprobs_hold_no_logits(worse, **size)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_planned_memory_is_what_an_update_takes(pool1, recompute):
    model = {"dtype": "bf16", "recompute": recompute, "logprob_chunk_tokens": 64}
    (found,) = pool1.run(planned_and_measured, TINY, Lengths(prompt=512, response=64), 4, model)
    assert found["planned_gib"] == pytest.approx(found["measured_gib"], rel=PLANNED_MEMORY_RTOL)


def test_rate_of_an_update_is_its_flops_over_its_seconds(pool1):
    (found,) = pool1.run(
        update_rate, TINY, Lengths(prompt=128, response=16), 2, {"dtype": "fp32"}, 1
    )
    assert found["tokens"] == 160
    assert found["mfu"] is None or torch.cuda.is_available()
    ratio = found["update_tflops"] * found["update_s"] / found["logprobs_tflops"]
    assert ratio == pytest.approx(3 * found["logprobs_s"])
