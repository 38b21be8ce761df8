"""Near-duplicates found by sketches are those that comparing every pair finds."""

import random

import pytest

from megatron_longrlvr.data.audit.question_sketch import (
    SIMILARITY,
    match_questions,
    similarity,
    sketch_questions,
)

WORDS = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu") for b in ("dar", "fel", "gon", "hip")]


def questions_with_repeats(num_questions):
    """Every third question repeats an earlier one but for its last word."""
    draw = random.Random(0)
    questions = []
    for place in range(num_questions):
        words = draw.choices(WORDS, k=14)
        if place % 3 == 2:
            words = [*questions[draw.randrange(place)].split()[:-1], draw.choice(WORDS)]
        questions.append(" ".join(words))
    return questions


def test_matches_are_those_of_comparing_all_pairs():
    questions = questions_with_repeats(300)
    wanted = {
        place
        for place in range(len(questions))
        if any(similarity(questions[place], other) >= SIMILARITY for other in questions[:place])
    }
    _, found = match_questions(questions, sketch_questions(questions), num_eval=0)
    assert len(wanted) > 50
    assert set(found) <= wanted
    # A sketch is a sample; near the threshold a few in a hundred share no band.
    assert len(found) >= 0.95 * len(wanted)
    for match in found.values():
        assert match.earlier < match.place
        assert match.similarity == similarity(questions[match.place], questions[match.earlier])


def test_equal_questions_always_match_however_many():
    questions = ["why is the sky blue"] * 500
    _, found = match_questions(questions, sketch_questions(questions), num_eval=0)
    assert sorted(found) == list(range(1, 500))


def test_evaluation_questions_match_training_ones_and_not_each_other():
    questions = ["why is it so", "why is it so", "who was it then", "why is it so", "other things"]
    with_eval, with_train = match_questions(questions, sketch_questions(questions), num_eval=2)
    assert {place: match.earlier for place, match in with_eval.items()} == {3: 0}
    assert with_train == {}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    # " abcd " has the shingles " abcd", "abcd "; " abce " has " abce", "abce ".
    [("abcd", "abcd", 1.0), ("abcd", "abce", 0.0), ("", "", 1.0), ("a", "b", 0.0)],
)
def test_similarity_of_short_questions(first, second, expected):
    assert similarity(first, second) == expected
