"""A colocated engine on a GPU: it gives its memory back while the learner trains, samples the same
after, and takes the policy's weights.
"""

import pytest

from tests.support.gpu_marks import needs, needs_gpu
from tests.support.gpu_models import ONE_B
from tests.support.gpu_rollout import KV_CACHE_GIB, refit_rate, sleep_and_wake
from tests.support.spawn import run_distributed

pytestmark = [*needs_gpu, needs("vllm")]

# bf16 on both sides: a handful of ulps of log-probabilities between 1 and 8.
AGREEMENT_ATOL = 0.25


@pytest.mark.parametrize("level", [1, 2])
def test_engine_that_slept_samples_the_same_and_takes_updates(level):
    (found,) = run_distributed(sleep_and_wake, 1, level)
    assert found["same"]
    assert found["moved"]
    assert found["gap"] < AGREEMENT_ATOL
    assert found["freed_gib"] > 0.9 * KV_CACHE_GIB


def test_every_update_of_a_larger_model_arrives():
    # Each is verified: what did not arrive raises.
    (found,) = run_distributed(refit_rate, 1, ONE_B)
    assert len(found) == 3
    assert all(one["refit/gb"] > 0.5 for one in found)
