"""GRPO on the small model learns where the claim says so, and stands still where it says so."""

from dataclasses import replace

import pytest

from megatron_longrlvr.theory.learning import Training, learn
from megatron_longrlvr.theory.model import PAYMENTS, Setting

OUTCOME, ETA_ZERO, LONGRLVR, CONTEXT = PAYMENTS
FOUR = Setting(num_chunks=64, num_evidence=4, cite_probability=1 / 16)
TRAINING = Training(num_steps=100)


@pytest.mark.parametrize("payment", [LONGRLVR, CONTEXT], ids=lambda payment: payment.name)
def test_paying_for_citations_finds_all_of_the_evidence(payment):
    curve = learn(FOUR, payment, TRAINING)
    assert curve.recall[0] < 0.1
    assert curve.recall[-1] > 0.95
    assert curve.precision[-1] > 0.8


@pytest.mark.parametrize("payment", [OUTCOME, ETA_ZERO], ids=lambda payment: payment.name)
def test_paying_only_with_the_answer_stands_still(payment):
    curve = learn(FOUR, payment, TRAINING)
    assert curve.recall[-1] < 0.1
    assert sum(curve.signal_share) / len(curve.signal_share) < 0.01


def test_one_evidence_chunk_or_partial_credit_is_learned_from_the_answer_alone():
    one = learn(replace(FOUR, num_evidence=1), OUTCOME, TRAINING)
    partial = learn(replace(FOUR, has_partial_credit=True), OUTCOME, TRAINING)
    assert one.answer[-1] > 0.95
    assert partial.recall[-1] > 0.9
    # Extra citations cost the outcome nothing, so precision stays low.
    assert one.precision[-1] < 0.5


def test_eta_does_not_matter_in_groups_of_wrong_answers():
    # Dividing by the spread takes the scale of F away; what is left of it is the floor of 1e-6.
    wrong_only = replace(FOUR, num_evidence=8, cite_probability=1 / 64)
    low, high = (
        learn(wrong_only, replace(LONGRLVR, eta=eta), Training(num_steps=5)) for eta in (0.1, 1.0)
    )
    assert max(low.answer) == max(high.answer) == 0
    assert low.recall == high.recall
