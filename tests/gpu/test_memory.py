"""Memory of one GPU: log-probabilities of long prompts hold no logits, and the planner is right."""

from dataclasses import replace

import pytest

from megatron_longrlvr.planner.workload import Lengths
from tests.support.gpu_bounds import PLANNED_MEMORY_RTOL, logprobs_hold_no_logits
from tests.support.gpu_checks import logprob_peaks, planned_and_measured
from tests.support.gpu_marks import needs_gpu
from tests.support.gpu_models import ONE_B
from tests.support.spawn import run_distributed

pytestmark = needs_gpu

CHUNK_TOKENS = 1024
RESPONSE = 4096


def test_logprobs_of_64k_and_128k_tokens_hold_no_logits():
    spec = replace(ONE_B, num_layers=2)
    prompts = (2**16 - RESPONSE, 2**17 - RESPONSE)
    model = {"logprob_chunk_tokens": CHUNK_TOKENS}
    (rows,) = run_distributed(logprob_peaks, 1, spec, prompts, RESPONSE, model)
    assert logprobs_hold_no_logits(rows, chunk_tokens=CHUNK_TOKENS, vocab_size=spec.vocab_size), (
        rows
    )


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_planned_memory_is_what_an_update_takes(recompute):
    lengths = Lengths(prompt=16384, response=1024)
    (found,) = run_distributed(planned_and_measured, 1, ONE_B, lengths, 8, {"recompute": recompute})
    assert found["planned_gib"] == pytest.approx(found["measured_gib"], rel=PLANNED_MEMORY_RTOL), (
        found
    )
