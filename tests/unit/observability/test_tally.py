"""Tallies: adding over ranks and dividing once equals counting everything in one place."""

import math

import pytest

from megatron_longrlvr.observability.tally import Entry, Tally


def test_mean_over_unequal_ranks_is_the_mean_over_all_values():
    # (1 + 2 + 6) / 3 = 3; the mean of the two means would be 3.75.
    merged = Tally.of({"a": [1.0, 2.0]}) + Tally.of({"a": [6.0]})
    assert merged.means() == {"a": 3.0}


def test_name_of_one_tally_only_keeps_its_numbers():
    merged = Tally.of({"a": [1.0, 3.0]}) + Tally.of({"b": [5.0]})
    assert merged.means() == {"a": 2.0, "b": 5.0}


def test_mean_over_nothing_is_unmeasured_not_zero():
    assert math.isnan(Tally.of({"a": []}).means()["a"])


def test_vector_holds_totals_then_counts_in_sorted_order():
    tally = Tally.of({"b": [1.0, 2.0], "a": [10.0]})
    assert tally.names == ("a", "b")
    assert tally.to_vector() == [10.0, 3.0, 1.0, 2.0]


def test_sum_of_vectors_is_the_vector_of_the_sum():
    first, second = Tally.of({"a": [1.0], "b": []}), Tally.of({"a": [2.0, 3.0], "b": [4.0]})
    summed = [one + other for one, other in zip(first.to_vector(), second.to_vector(), strict=True)]
    assert Tally.from_vector(first.names, summed) == first + second


def test_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 names need 4 numbers, got 3"):
        Tally.from_vector(("a", "b"), [1.0, 2.0, 3.0])


def test_std_is_that_of_the_population():
    # Values 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3.
    tally = Tally.of({"a": [1.0, 2.0, 6.0], "a2": [1.0, 4.0, 36.0]})
    assert tally.std("a", "a2") == pytest.approx(math.sqrt(14 / 3), rel=1e-12)


def test_std_of_equal_values_is_no_root_of_a_negative_number():
    # In binary 3 * 0.1**2 / 3 - 0.1**2 can fall below 0.
    values = [0.1] * 3
    tally = Tally({"a": Entry(total=0.3, count=3), "a2": Entry(total=0.03 - 1e-17, count=3)})
    assert tally.std("a", "a2") == pytest.approx(0.0, abs=1e-7)
    assert Tally.of({"a": values, "a2": [v * v for v in values]}).std("a", "a2") < 1e-7
