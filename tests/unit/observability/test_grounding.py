"""Grounding metrics: every number by hand, and independence of how samples lie on ranks."""

import pytest

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.grounding import (
    chunk_deciles,
    grounding_tally,
    measured_means,
)
from megatron_longrlvr.observability.tally import Tally
from tests.unit.observability.builders import scored_batch, scored_sample

TEN_CHUNKS = tuple("abcdefghij")  # chunk i begins in tenth i


def finder(**changes):
    """Cites evidence 0 and the wrong chunk 5; misses evidence 9."""
    found = {"precision": 0.5, "recall": 0.5, "f_beta": 0.5, "cited": (0, 5, 5, 77)}
    return scored_sample(**{**found, "chunks": TEN_CHUNKS, "evidence": (0, 9), **changes})


def guesser(**changes):
    """Cites nothing but the last chunk, which is its only evidence."""
    found = {"precision": 1.0, "recall": 1.0, "f_beta": 1.0, "answer": 1.0, "cited": (9,)}
    return scored_sample(
        **{**found, "chunks": TEN_CHUNKS, "evidence": (9,), "prompt_id": "p1", **changes}
    )


def means(*scored):
    return measured_means(grounding_tally(scored_batch(*scored)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(names.GROUNDING_CITATIONS_MEAN, (4 + 1) / 2, id="as-written"),
        pytest.param(names.GROUNDING_REPEATED_CITATIONS_FRAC, 1 / 5, id="repeated"),
        pytest.param(names.GROUNDING_UNKNOWN_CITATIONS_FRAC, 1 / 5, id="unknown"),
        pytest.param(names.grounding_by_evidence(2, "recall"), 0.5, id="two-evidence"),
        pytest.param(names.grounding_by_evidence(1, "answer"), 1.0, id="one-evidence"),
        pytest.param(names.grounding_by_decile(0, "recall"), 1.0, id="first-found"),
        pytest.param(names.grounding_by_decile(9, "recall"), 0.5, id="last-found-by-one-of-two"),
        pytest.param(names.grounding_by_decile(5, "precision"), 0.0, id="wrong-citation"),
        pytest.param(names.grounding_by_decile(9, "precision"), 1.0, id="right-citation"),
        pytest.param(names.grounding_by_decile(5, "cited"), 0.5, id="cited-by-one-of-two"),
        pytest.param(names.grounding_by_prompt(0, "precision"), 0.75, id="short-prompts"),
    ],
)
def test_value_is_what_one_counts_by_hand(name, expected):
    assert means(finder(), guesser())[name] == pytest.approx(expected)


def test_what_nothing_falls_into_is_not_measured():
    found = means(guesser(), guesser())
    assert names.grounding_by_evidence(2, "recall") not in found
    assert names.grounding_by_decile(0, "recall") not in found, "no evidence begins there"
    assert names.grounding_by_decile(0, "precision") not in found, "nobody cites there"
    assert found[names.grounding_by_decile(0, "cited")] == 0


def test_invalid_samples_are_left_out():
    assert means(finder(), finder(is_valid=False, cited=())) == means(finder(), finder())


def test_a_response_that_could_not_be_read_found_nothing():
    unread = finder(outcome="no_answer", precision=0.0, recall=0.0, f_beta=0.0)
    found = means(finder(), unread)
    assert found[names.grounding_by_decile(0, "recall")] == 0.5
    # The mean of the reward's own recall over all evidence.
    assert found[names.grounding_by_evidence(2, "recall")] == 0.25


def test_tenths_are_of_characters_not_of_chunks():
    assert chunk_deciles(["x" * 80, "x" * 15, "x" * 5]) == [0, 8, 9]
    assert chunk_deciles(["", ""]) == [0, 0]
    assert chunk_deciles(TEN_CHUNKS) == list(range(10))


def test_ranks_add_up_even_where_one_has_no_samples():
    whole = grounding_tally(scored_batch(finder(), guesser()))
    shares = [scored_batch(finder()), scored_batch(guesser()), scored_batch()]
    vectors = [grounding_tally(share).to_vector() for share in shares]
    summed = [sum(values) for values in zip(*vectors, strict=True)]
    assert measured_means(Tally.from_vector(whole.names, summed)) == measured_means(whole)
