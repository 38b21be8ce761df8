"""Our estimates beside NeMo-Aligner's own functions, on the same random inputs.

Called in a process of its own, with names standing in for NeMo: importing NeMo-Aligner changes
what torch says about CUDA.
"""

from dataclasses import replace

import pytest
import torch

from megatron_longrlvr.algorithms.advantage import group_advantages
from megatron_longrlvr.algorithms.gae import generalized_advantages
from megatron_longrlvr.algorithms.kl import k1
from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.algorithms.valuation import whiten_tokens
from megatron_longrlvr.parallel.groups import close_process_groups
from megatron_longrlvr.stages import PackedBatch, TrainBatch
from tests.support.learners import start_groups

# Float32 on their side: sums of twelve terms.
RTOL, ATOL = 1e-5, 1e-6
GAMMA, LAM = 0.9, 0.8
LENGTHS = torch.tensor([12, 3, 7, 1])


def draw(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask():
    return (torch.arange(12) < LENGTHS[:, None]).float()


def theirs(rank, world_size):  # noqa: ARG001
    """What NeMo-Aligner makes of the inputs, by what it is compared with."""
    from megatron_longrlvr.aligner import library  # noqa: F401 - before anything of nemo_aligner

    from nemo_aligner.utils import ppo_utils  # isort: skip
    from nemo_aligner.utils.distributed import masked_global_mean_var, normalize_tensor

    start_groups({}, world_size)
    advantages, returns = ppo_utils.calculate_advantages_and_returns(
        draw(4, 12), draw(4, 12, seed=6), GAMMA, LAM, mask=mask()
    )
    mean, variance = masked_global_mean_var(advantages, mask())
    prompts, rewards = torch.arange(2).repeat_interleave(4)[:, None], draw(8)
    is_valid = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1.0])
    found = {
        "advantages": advantages,
        "returns": returns,
        "normalized": normalize_tensor(advantages, mask()) * mask(),
        "mean": mean,
        "variance": variance,
        "rloo": rewards - ppo_utils.calculate_rloo_baseline(prompts, rewards, is_valid),
        "kl": ppo_utils.calculate_kl_penalty(draw(9), draw(9, seed=6), use_absolute_kl=False),
    }
    close_process_groups()
    return {name: value.tolist() for name, value in found.items()}


@pytest.fixture(scope="module")
def published(pool1):
    return {name: torch.tensor(value) for name, value in pool1.run(theirs)[0].items()}


@pytest.fixture(scope="module")
def estimates():
    return generalized_advantages(draw(4, 12, seed=6), draw(4, 12), LENGTHS, gamma=GAMMA, lam=LAM)


def assert_close(found, expected):
    torch.testing.assert_close(found.float(), expected, rtol=RTOL, atol=ATOL)


def test_advantages_and_returns_of_a_critic(published, estimates):
    advantages, returns = estimates
    assert_close(advantages, published["advantages"])
    assert_close(returns, published["returns"])


def test_whitened_advantages_but_for_the_divisor_of_the_variance(published, estimates):
    # Theirs divides by the number of tokens, ours by one less.
    tokens = estimates[0][mask().bool()]
    row = replace(unlearned_row(range(len(tokens)), num_given=0), advantages=tokens.float())
    packed = PackedBatch(
        step=1,
        micro_batches=[row],
        num_global_tokens=len(tokens),
        num_global_response_tokens=len(tokens),
        num_global_samples=len(LENGTHS),
        num_repeated_prompt_tokens=0,
        load_imbalance=1.0,
    )
    nothing = [torch.zeros(len(tokens))]
    (whitened,) = whiten_tokens(
        [TrainBatch(packed=packed, proximal_logprobs=nothing, reference_logprobs=None)]
    )
    found = whitened.packed.micro_batches[0].advantages
    stretch = (len(tokens) / (len(tokens) - 1)) ** 0.5
    assert_close(found * stretch, published["normalized"][mask().bool()])
    assert_close(tokens.mean(), published["mean"])
    assert_close(tokens.var(correction=0), published["variance"])


def test_rewards_less_the_mean_of_the_others(published):
    is_valid = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    found = group_advantages(draw(8).view(2, 4), is_valid=is_valid, kind="rloo")
    assert_close(found.values[is_valid], published["rloo"].view(2, 4)[is_valid])


def test_divergence(published):
    assert_close(k1(draw(9), draw(9, seed=6)), published["kl"])
