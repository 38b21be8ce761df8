"""Overlap of documents: a share of windows, whatever lies around them."""

import random

from megatron_longrlvr.data.audit.document_windows import hash_windows, index_windows


def document(seed, num_words=2000):
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(num_words)]


def windows(words):
    return hash_windows(" ".join(words).encode())


INDEX = index_windows([windows(document("a")), windows([]), windows(document("b"))])


def test_the_same_document_overlaps_wholly():
    assert INDEX.overlap(windows(document("b"))) == (2, 1.0)


def test_a_document_inside_padding_overlaps_by_its_share():
    padded = [*document("c", 1000), *document("b"), *document("d", 500)]
    place, share = INDEX.overlap(windows(padded))
    assert place == 2
    # 2000 of 3500 words, of which a quarter of the windows is sampled.
    assert abs(share - 2000 / 3500) < 0.05


def test_a_small_part_and_other_documents_do_not_overlap():
    assert INDEX.overlap(windows([*document("b", 500), *document("e", 1500)])) is None
    assert INDEX.overlap(windows(document("e"))) is None


def test_shares_of_several_documents_are_not_added_up():
    mixed = [*document("a", 900), *document("b", 900), *document("e", 200)]
    assert INDEX.overlap(windows(mixed)) is None


def test_a_document_shorter_than_a_window_overlaps_with_nothing():
    assert len(windows(document("b", 7))) == 0
    assert INDEX.overlap(windows(document("b", 7))) is None


def test_about_a_quarter_of_the_windows_is_kept():
    assert 400 < len(windows(document("f"))) < 600
