"""Cleaning is idempotent and keeps what is printed; near-duplicates are found, others are not."""

import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.data.synthesis.cleaning import clean_text, detect_language, sketch_tokens
from megatron_longrlvr.data.synthesis.stages.dedup import find_repeats

# Standard error of a share estimated from 128 permutations is at most 0.044; four of them.
SKETCH_ATOL = 0.18


def test_what_prints_nothing_goes_and_lines_are_tidy():
    text = "A\u200b b \t\r\nc\x00\r\r\n\n\n\nd\ufeff  "
    assert clean_text(text) == "A b\nc\n\nd"
    assert clean_text("e\u0301") == "\u00e9"


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")


def test_languages_are_told_apart():
    assert detect_language("The river rises in the mountains and flows past the town.") == "en"
    assert detect_language("Der Fluss entspringt in den Bergen und fliesst an der Stadt.") == "de"


def test_similarity_of_sketches_is_that_of_the_shingles():
    """One token in the middle is changed: of 996 shingles of five tokens, five differ.

    With half of the tokens replaced by others, 496 of 1496 are shared.
    """
    tokens = np.arange(1000)
    changed, half = tokens.copy(), tokens.copy()
    changed[500] = 5000
    half[500:] += 10_000
    first = sketch_tokens(tokens)
    assert abs(np.mean(first == sketch_tokens(changed)) - 991 / 1001) < SKETCH_ATOL
    assert abs(np.mean(first == sketch_tokens(half)) - 496 / 1496) < SKETCH_ATOL
    assert np.mean(first == sketch_tokens(tokens + 100_000)) < SKETCH_ATOL


def test_the_first_of_equal_and_nearly_equal_documents_stays():
    base = np.arange(2000)
    near = base.copy()
    near[1000] = 9999
    others = [base + 10_000 * place for place in range(1, 4)]
    texts = [base, others[0], near, others[1], base, others[2]]
    sketches = np.array([sketch_tokens(tokens) for tokens in texts])
    ids = ["base", "one", "near", "two", "base", "three"]
    assert find_repeats(ids, sketches, similarity=0.8) == {2: 0, 4: 0}
    assert find_repeats(ids[:1], sketches[:1], similarity=0.8) == {}


def test_a_document_is_not_dropped_for_one_that_is_dropped_itself():
    """b repeats a and c repeats b, but c does not repeat a, so c stays."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**32, 128, dtype=np.uint32)
    second, third = first.copy(), first.copy()
    second[:20] += 1
    third[:40] += 1
    third[:20] = second[:20]
    sketches = np.array([first, second, third])
    assert find_repeats(["a", "b", "c"], sketches, similarity=0.8) == {1: 0}
