"""Our objectives beside published implementations, on the same random inputs.

What TRL and verl make of the inputs stands in ``tests/golden/objectives.json``, written by the
script of the same name; NeMo-Aligner's functions are called in
``tests/distributed/test_aligner_functions.py``. Losses are compared with their gradient for every
token, through the packing that gives tokens their weights.

Ours differs where the words below say so: REINFORCE++ counts samples, not tokens, and CISPO has no
bound from below.
"""

import json
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from megatron_longrlvr.algorithms.advantage import group_advantages
from megatron_longrlvr.algorithms.assign import assign_advantages, whiten_advantages
from megatron_longrlvr.algorithms.gae import generalized_advantages
from megatron_longrlvr.algorithms.kl import ESTIMATORS
from megatron_longrlvr.algorithms.mismatch import correct_for_mismatch, samples_of
from megatron_longrlvr.algorithms.overlong import charge_overlong
from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.algorithms.policy_loss import PolicyLossInput, mean_log_ratios, policy_loss
from megatron_longrlvr.algorithms.valuation import whiten_tokens, with_advantages
from megatron_longrlvr.algorithms.value_loss import ValueLossInput, value_loss
from megatron_longrlvr.config.training import OverlongConfig
from megatron_longrlvr.stages import AdvantageBatch, ScoredBatch, TrainBatch
from tests.golden import objectives as golden
from tests.unit.algorithms.builders import algorithm, prompt, scored_sample

# Float32 on both sides; sums of 26 tokens, and small numbers that they add to a divisor.
RTOL, ATOL = 1e-5, 1e-6
ALONE = SimpleNamespace(size=lambda: 1)
CLIP = {"clip_low": golden.CLIP_LOW, "clip_high": golden.CLIP_HIGH, "dual_clip": None}
DUAL = {**CLIP, "dual_clip": golden.DUAL_CLIP}
TRUNCATED = {"importance": "truncated", "truncate_at": golden.TRUNCATE_AT}
PENALIZED = {"estimator": "k3", "coefficient": golden.KL_COEFFICIENT}


@cache
def published():
    return json.loads(golden.FILE.read_text())


def given(name):
    return torch.tensor(published()["inputs"][name])


def scored_samples():
    """The samples of the inputs, in two groups, with their rewards."""
    rewards = given("rewards").tolist()
    return [
        scored_sample(
            prompt(f"p{i // golden.GROUP}"), i % golden.GROUP, num_tokens=length, reward=rewards[i]
        )
        for i, length in enumerate(golden.LENGTHS)
    ]


class Row:
    """The samples of the inputs as one packed micro-batch."""

    def __init__(self, **settings):
        self.config = algorithm(micro_batch_tokens=999, shared_prompt=False, **settings)
        behavior, advantages = given("behavior_logprobs"), given("advantages")
        scored = [
            replace(
                one, sample=replace(one.sample, behavior_logprobs=behavior[i, :length].tolist())
            )
            for i, (one, length) in enumerate(zip(scored_samples(), golden.LENGTHS, strict=True))
        ]
        batch = AdvantageBatch(
            step=1,
            scored=scored,
            advantages=[advantages[i, :n].tolist() for i, n in enumerate(golden.LENGTHS)],
            num_groups=2,
            num_dropped_groups=0,
        )
        (packed,) = pack(batch, config=self.config, max_response_tokens=golden.MAX_TOKENS)
        (row,) = packed.micro_batches
        names = [f"{one.sample.prompt.prompt_id}/{one.sample.sample_index}" for one in scored]
        self.samples = [names.index(one) for one in row.sample_ids]
        self.places = [places for places, _ in samples_of(row)]
        trained = TrainBatch(
            packed=packed,
            proximal_logprobs=[self.laid_out(given("proximal_logprobs"))],
            reference_logprobs=None,
        )
        self.batch = correct_for_mismatch(trained, self.config.mismatch)

    def laid_out(self, padded):
        """[S, T] to the row's tokens."""
        filled = torch.zeros(int(self.places[-1][-1]) + 1)
        for sample, places in zip(self.samples, self.places, strict=True):
            filled[places] = padded[sample, : len(places)]
        return filled

    def padded(self, values):
        """The row's tokens to [S, T]."""
        found = torch.zeros(len(golden.LENGTHS), golden.LONGEST)
        for sample, places in zip(self.samples, self.places, strict=True):
            found[sample, : len(places)] = values[places]
        return found

    def loss(self):
        """Loss, and its gradient [S, T] with respect to the policy's log-probabilities."""
        policy = self.laid_out(given("policy_logprobs")).requires_grad_()
        (tokens,) = self.batch.packed.micro_batches
        at = torch.cat(self.places)
        proximal = self.laid_out(given("proximal_logprobs"))[at]
        segments = torch.repeat_interleave(torch.tensor([len(one) for one in self.places]))
        is_penalized = self.config.kl.coefficient > 0
        reference = self.laid_out(given("reference_logprobs"))[at] if is_penalized else None
        inputs = PolicyLossInput(
            policy_logprobs=policy[at],
            proximal_logprobs=proximal,
            behavior_logprobs=tokens.behavior_logprobs[at],
            advantages=tokens.advantages[at],
            loss_weights=tokens.loss_weights[at],
            entropy=torch.zeros(len(at)),
            reference_logprobs=reference,
            mean_log_ratios=mean_log_ratios(
                policy[at] - proximal, segments, num_segments=len(self.places), group=ALONE
            ),
        )
        result = policy_loss(inputs, self.config).loss
        result.backward()
        return result.item(), self.padded(policy.grad)


@pytest.mark.parametrize(
    ("library", "name", "settings"),
    [
        pytest.param("trl", "token_mean", CLIP, id="trl-dapo"),
        pytest.param("trl", "token_mean_dual_clip", DUAL, id="trl-two-sided"),
        pytest.param(
            "trl", "sequence_mean", {**CLIP, "normalizer": "sequence_mean"}, id="trl-grpo"
        ),
        pytest.param("trl", "constant", {**CLIP, "normalizer": "constant"}, id="trl-dr-grpo"),
        pytest.param("trl", "kl_in_loss", {**CLIP, "kl": PENALIZED}, id="trl-kl"),
        pytest.param("trl", "cispo", {**CLIP, "loss": "cispo"}, id="trl-cispo"),
        pytest.param("verl", "clipped", DUAL, id="verl-dual-clip"),
        pytest.param(
            "verl", "truncated_importance", {**DUAL, "mismatch": TRUNCATED}, id="verl-truncated"
        ),
        pytest.param(
            "verl", "gspo", {**CLIP, "loss": "gspo", "normalizer": "sequence_mean"}, id="verl-gspo"
        ),
        pytest.param("verl", "cispo", {**CLIP, "loss": "cispo"}, id="verl-cispo"),
    ],
)
def test_loss_and_gradient_are_those_of(library, name, settings):
    expected = published()[library][name]
    loss, gradient = Row(**settings).loss()
    assert loss == pytest.approx(expected["loss"], rel=RTOL, abs=ATOL)
    torch.testing.assert_close(gradient, torch.tensor(expected["gradient"]), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_group_advantages_are_those_of_verl(kind):
    rewards = given("rewards").view(-1, golden.GROUP)
    found = group_advantages(rewards, is_valid=torch.ones_like(rewards).bool(), kind=kind)
    expected = torch.tensor(published()["verl"][kind])
    torch.testing.assert_close(found.values.flatten(), expected, rtol=RTOL, atol=ATOL)


def test_whitened_samples_are_those_of_verl_s_reinforce_plus_plus_for_single_tokens():
    batch = ScoredBatch(step=1, group_size=golden.GROUP, scored=scored_samples())
    found = whiten_advantages(assign_advantages(batch, algorithm(advantage="dr_grpo")))
    expected = published()["verl"]["reinforce_plus_plus_baseline"]
    assert [tokens[0] for tokens in found.advantages] == pytest.approx(expected, rel=RTOL, abs=ATOL)


@pytest.mark.parametrize("library", ["trl_ppo", "verl"])
def test_whitened_estimates_and_returns_of_a_critic_are_those_of(library):
    estimates, returns = _estimates()
    row = Row()
    (whitened,) = whiten_tokens([with_advantages(row.batch, [row.laid_out(estimates)])])
    expected = published()[library]
    for found, name in (
        (row.padded(whitened.packed.micro_batches[0].advantages), "whitened_advantages"),
        (returns, "returns"),
    ):
        torch.testing.assert_close(found, torch.tensor(expected[name]), rtol=RTOL, atol=ATOL)


def test_value_loss_is_that_of_verl():
    at = golden.mask().bool()
    _, returns = _estimates()
    inputs = ValueLossInput(
        values=given("new_values")[at],
        old_values=given("values")[at],
        returns=returns[at],
        loss_weights=torch.full((int(at.sum()),), 1 / int(at.sum())),
    )
    loss, sums = value_loss(inputs, clip=golden.VALUE_CLIP)
    assert loss.item() == pytest.approx(published()["verl"]["value_loss"], rel=RTOL)
    clipped = sums["clipped"].item() / int(at.sum())
    assert clipped == pytest.approx(published()["verl"]["value_clipped_frac"], rel=RTOL)


def _estimates():
    """Advantages and returns of the inputs, [S, T] float32 each."""
    found = generalized_advantages(
        given("token_rewards"),
        given("values"),
        torch.tensor(golden.LENGTHS),
        gamma=golden.GAMMA,
        lam=golden.LAM,
    )
    return [one.float() for one in found]


@pytest.mark.parametrize("kind", sorted(ESTIMATORS))
def test_divergence_and_its_gradient_are_those_of_verl(kind):
    policy = given("policy_logprobs").requires_grad_()
    total = (ESTIMATORS[kind](policy, given("reference_logprobs")) * golden.mask()).sum()
    total.backward()
    expected = published()["verl"][kind]
    assert total.item() == pytest.approx(expected["loss"], rel=RTOL)
    torch.testing.assert_close(
        policy.grad, torch.tensor(expected["gradient"]), rtol=RTOL, atol=ATOL
    )


def test_rewards_of_long_responses_are_those_of_verl_s_dapo():
    batch = ScoredBatch(step=1, group_size=golden.GROUP, scored=scored_samples())
    config = OverlongConfig(buffer_tokens=golden.BUFFER, penalty=golden.PENALTY)
    charged = charge_overlong(batch, config, max_tokens=golden.MAX_TOKENS)
    rewards = [one.reward for one in charged.scored]
    assert rewards == pytest.approx(published()["verl"]["overlong_rewards"], rel=RTOL)
    assert rewards != given("rewards").tolist()
