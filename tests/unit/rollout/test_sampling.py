"""Token choice: inverse of the cumulative distribution, cut by top-k and top-p as defined."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.sampling import choose_tokens, sample_uniforms

PROBS = [0.1, 0.4, 0.3, 0.2]


def params(**changes) -> SamplingParams:
    return SamplingParams(**{"max_response_tokens": 8, "temperature": 1.0, "seed": 0, **changes})


def choose(uniform, *, probs=PROBS, **changes):
    logits = torch.tensor([probs]).log()
    tokens, logprobs = choose_tokens(
        logits, torch.tensor([uniform], dtype=torch.float64), params(**changes)
    )
    return int(tokens), float(logprobs)


@pytest.mark.parametrize(
    ("uniform", "expected"),
    # Cumulative: .1, .5, .8, 1.
    [(0.0, 0), (0.0999, 0), (0.101, 1), (0.499, 1), (0.501, 2), (0.81, 3), (1 - 2**-53, 3)],
)
def test_token_is_the_one_whose_share_holds_the_uniform(uniform, expected):
    assert choose(uniform)[0] == expected


@pytest.mark.parametrize(
    ("uniform", "expected"),
    # Kept: tokens 1 and 2 with .4 and .3 of .7, so the border lies at .571.
    [(0.0, 1), (0.56, 1), (0.58, 2), (1 - 2**-53, 2)],
)
def test_top_k_keeps_the_k_likeliest(uniform, expected):
    assert choose(uniform, top_k=2)[0] == expected


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        pytest.param(0.05, {1}, id="likeliest-always-stays"),
        pytest.param(0.39, {1}, id="likeliest-is-enough"),
        pytest.param(0.41, {1, 2}, id="next-one-needed"),
        pytest.param(0.95, {0, 1, 2, 3}, id="all"),
    ],
)
def test_top_p_keeps_the_smallest_set_of_at_least_that_mass(top_p, kept):
    chosen = {choose(uniform, top_p=top_p)[0] for uniform in np.linspace(0, 1 - 1e-9, 400)}
    assert chosen == kept


def test_logprob_is_under_the_temperature_and_before_the_cut():
    # Temperature 2 takes square roots: .4 -> .6325 of 2.7286... summed over all four tokens.
    roots = np.sqrt(PROBS)
    expected = np.log(roots[1] / roots.sum())
    token, logprob = choose(0.3, temperature=2.0, top_k=1)
    assert token == 1
    assert logprob == pytest.approx(expected, abs=1e-6)


def test_temperature_zero_takes_the_likeliest():
    assert choose(0.99, temperature=0.0) == (1, pytest.approx(np.log(0.4), abs=1e-6))


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.2, 1.0]), min_size=2, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_token_without_probability_is_never_drawn(weights, uniform):
    weights[0] = 1.0
    total = sum(weights)
    token, _ = choose(uniform, probs=[weight / total for weight in weights])
    assert weights[token] > 0


def test_frequencies_follow_the_distribution():
    uniforms = torch.from_numpy(
        sample_uniforms(seed=1, step=2, prompt_id="p", sample_index=0, count=20_000)
    )
    logits = torch.tensor([PROBS]).log().expand(20_000, -1)
    tokens, _ = choose_tokens(logits, uniforms, params())
    counts = torch.bincount(tokens, minlength=4).double()
    expected = torch.tensor(PROBS, dtype=torch.float64) * 20_000
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 99.9 % quantile of chi-square with 3 degrees of freedom.
    assert chi_square < 16.27


@pytest.mark.parametrize(
    "changed",
    [{"seed": 2}, {"step": 3}, {"prompt_id": "q"}, {"sample_index": 1}],
    ids=lambda change: next(iter(change)),
)
def test_random_numbers_belong_to_the_sample(changed):
    identity = {"seed": 1, "step": 2, "prompt_id": "p", "sample_index": 0}
    first = sample_uniforms(**identity, count=5)
    np.testing.assert_array_equal(first, sample_uniforms(**identity, count=9)[:5])
    assert not np.any(first == sample_uniforms(**{**identity, **changed}, count=5))
