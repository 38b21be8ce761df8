"""A run that samples with vLLM goes on after SIGKILL as if it had not been killed.

Promise, on CPU, for one engine in one process: killed while vLLM samples and while it gets new
weights, the records, samples and weights of a run are those of a run without a stop, bit for bit,
although every start brings up a vLLM of its own.
"""

from megatron_longrlvr.config.load import RECIPES
from tests.support.killed_runs import how_it_ends, records, run, samples, weights
from tests.support.moments import Moment
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import needs_vllm, vllm_config

pytestmark = needs_vllm

TIMEOUT_S = 400.0
MOMENTS = [
    Moment("rollout.vllm_colocated", "VllmColocatedEngine.generate", 2),
    Moment("rollout.vllm_colocated", "VllmColocatedEngine.publish", 3),  # 1: at the start
]


def config(run_dir):
    return vllm_config(
        RECIPES / "toy_start_wide",
        run_dir,
        algorithm__proximal="recompute",
        trainer__steps=4,
        trainer__save_every=1,
        trainer__eval_every=0,
        trainer__export_hf=True,
        evaluation=None,
    )


def test_killed_run_ends_as_if_it_had_not_been(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run_distributed(run, 1, config(straight), timeout_s=TIMEOUT_S) == [0]
    for moment in MOMENTS:
        ended = how_it_ends(config(killed), moment, 0.01, num_ranks=1)
        assert "died with exit code -9" in ended, moment
    assert run_distributed(run, 1, config(killed), timeout_s=TIMEOUT_S) == [0]
    assert records(killed) == records(straight)
    assert samples(killed) == samples(straight)
    assert weights(killed) == weights(straight)
