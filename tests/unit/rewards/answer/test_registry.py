"""Verifier registry: the names of the schema, the best of several references, and what every
verifier promises whatever it reads: a verification, and the same one inside tags of the format."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.rewards.answer import choice, exact, normalized, token_f1
from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.registry import VERIFIERS, best_verification
from megatron_longrlvr.rewards.answer.verification import Ruling, Verification

TAGS = ["<answer>", "</answer>", "<useful_chunks>", "<CHUNK_7>", "</think>", "<|im_end|>", "\n"]
# Pieces that verifiers read something into, between characters that hypothesis makes up.
PIECES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["(B)", "A", "12", "1/0", "%", "-", "1e999", "March", "1990", "yes", "no", "<"]
    ),
)
TEXTS = st.lists(PIECES, max_size=6).map(" ".join) | st.text(max_size=40)


def test_best_of_several_references_counts():
    assert best_verification(normalized.verify, "NYC", ["New York", "nyc"]).ruling is Ruling.RIGHT
    assert best_verification(normalized.verify, "Boston", ["New York", "nyc"]).score == 0.0


def test_wrong_by_one_reference_only_is_undecided():
    assert best_verification(choice.verify, "A", ["B", "C"]).ruling is Ruling.WRONG
    assert best_verification(choice.verify, "A", ["B", "Paris"]).ruling is Ruling.UNDECIDED


def test_highest_score_counts_where_nothing_is_right():
    # 2 * 1 / (1 + 2) against the first, nothing in common with the second
    verification = best_verification(token_f1.verify, "York", ["New York", "Boston"])
    assert verification == Verification(ruling=Ruling.UNDECIDED, score=pytest.approx(2 / 3))


def test_question_without_reference_is_refused():
    with pytest.raises(ValueError, match="without reference answers"):
        best_verification(exact.verify, "x", [])


def test_every_verifier_of_the_schema_has_a_function():
    names = set(RewardsConfig.model_fields["answer"].annotation.__args__)
    assert names == {*VERIFIERS, "judge"}


@pytest.mark.parametrize("name", VERIFIERS)
@given(answer=TEXTS, reference=TEXTS)
def test_verification_is_consistent_whatever_the_texts(name, answer, reference):
    verification = VERIFIERS[name](answer, reference)
    assert 0.0 <= verification.score <= 1.0
    assert (verification.ruling is Ruling.RIGHT) <= (verification.score == 1.0)
    assert (verification.ruling is Ruling.WRONG) <= (verification.score == 0.0)


@pytest.mark.parametrize("name", VERIFIERS)
@given(answer=TEXTS, reference=TEXTS, before=st.sampled_from(TAGS), after=st.sampled_from(TAGS))
def test_verification_does_not_depend_on_surrounding_tags(name, answer, reference, before, after):
    inside = VERIFIERS[name](f"{before}{answer}{after}", reference)
    assert inside == VERIFIERS[name](answer, reference)


@pytest.mark.parametrize("name", VERIFIERS)
@given(TEXTS)
def test_answer_equal_to_the_reference_is_never_wrong(name, text):
    assert bare(text) == "" or VERIFIERS[name](text, text).ruling is not Ruling.WRONG


@pytest.mark.parametrize("name", ["exact", "normalized", "unordered", "list", "token_f1"])
@given(st.text(max_size=30))
@example("|")  # a separator, so a list of nothing
def test_answer_equal_to_the_reference_is_right_where_something_is_compared(name, text):
    is_right = VERIFIERS[name](text, text).ruling is Ruling.RIGHT
    assert is_right or normalized.normalize(text) == ""
