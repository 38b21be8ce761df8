"""Verifier registry: the names of the schema, and the best of several references."""

import pytest

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.rewards.answer import exact, normalized
from megatron_longrlvr.rewards.answer.registry import VERIFIERS, best_score


def test_best_of_several_references_counts():
    assert best_score(normalized.score, "NYC", ["New York", "nyc"]) == 1.0
    assert best_score(normalized.score, "Boston", ["New York", "nyc"]) == 0.0


def test_question_without_reference_is_refused():
    with pytest.raises(ValueError, match="without reference answers"):
        best_score(exact.score, "x", [])


def test_every_verifier_of_the_schema_has_a_function():
    assert set(RewardsConfig.model_fields["answer"].annotation.__args__) == set(VERIFIERS)
