"""Numbers: the same quantity in any notation is right, another one wrong, the rest neither."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.rewards.answer import number
from megatron_longrlvr.rewards.answer.verification import Ruling


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        pytest.param("42.", "42", id="full-stop"),
        pytest.param("1,234,567", "1234567", id="thousands"),
        pytest.param("3.50", "3.5", id="trailing-zero"),
        pytest.param("\u22123", "-3", id="minus-sign"),
        pytest.param("3/4", "0.75", id="fraction"),
        pytest.param("1 3/4", "1.75", id="mixed-number"),
        pytest.param(r"$\frac{3}{4}$", "0.75", id="latex-fraction"),
        pytest.param(r"\boxed{42}", "42", id="boxed"),
        pytest.param("1.2e3", "1200", id="exponent"),
        pytest.param("1.2 x 10^3", "1200", id="times-ten"),
        pytest.param("5%", "5 percent", id="percent-word"),
        pytest.param("0.05", "5%", id="percent-as-a-share"),
        pytest.param("3 million", "3,000,000", id="million"),
        pytest.param("$5", "5 dollars", id="dollars"),
        pytest.param("\u20ac5", "5 euros", id="euros"),
        pytest.param("2 km", "2000 m", id="conversion"),
        pytest.param("90 minutes", "1.5 hours", id="time"),
        pytest.param("5", "5 km", id="unit-left-out"),
        pytest.param("There are 42 apples in the basket.", "42", id="sentence"),
        pytest.param("2 + 3 = 5", "5", id="behind-the-equals-sign"),
        pytest.param("3.14159", "3.1416", id="rounding"),
    ],
)
def test_same_quantity_is_right(answer, reference):
    assert number.verify(answer, reference).ruling is Ruling.RIGHT


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        pytest.param("43", "42", id="other-number"),
        pytest.param("20241", "20240", id="whole-numbers-have-no-tolerance"),
        pytest.param("3.14", "3.15", id="outside-the-tolerance"),
        pytest.param("-3", "3", id="sign"),
        pytest.param("2 km", "2 m", id="other-unit"),
        pytest.param("6%", "5%", id="percent"),
        pytest.param("3 thousand", "3 million", id="multiplier"),
        pytest.param("", "42", id="empty"),
    ],
)
def test_other_quantity_is_wrong(answer, reference):
    assert number.verify(answer, reference).ruling is Ruling.WRONG


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        pytest.param("three", "3", id="number-word"),
        pytest.param("2 or 3", "3", id="several"),
        pytest.param("not 3", "3", id="negation"),
        pytest.param("Soyuz 11", "Apollo 11", id="number-in-a-name"),
        pytest.param("5 kg", "5 km", id="other-dimension"),
        pytest.param("5%", "5", id="percent-on-one-side"),
        pytest.param("2000", "2 km", id="maybe-metres"),
        pytest.param("1-2", "1", id="range"),
        pytest.param("2^10", "1024", id="power"),
        pytest.param("1/0", "1", id="zero-divisor"),
        pytest.param("9" * 5000, "9", id="thousands-of-digits"),
        pytest.param("1e999999999", "9", id="huge-exponent"),
        pytest.param("B2", "2", id="inside-a-word"),
    ],
)
def test_what_cannot_be_read_safely_is_undecided(answer, reference):
    assert number.verify(answer, reference).ruling is Ruling.UNDECIDED


@given(st.fractions(max_denominator=1000))
def test_fraction_as_written_is_read_back(value):
    quantity = number.read_quantity(f"{value.numerator}/{value.denominator}", is_reference=True)
    assert quantity.base == value


def test_tolerance_is_relative_to_the_reference():
    # 1 and 1.0001 differ by 1e-4 of the reference 1, and by less of 1.0001.
    assert number.agrees(Fraction("1.0001"), Fraction(1))
    assert not number.agrees(Fraction("1.00011"), Fraction(1))
