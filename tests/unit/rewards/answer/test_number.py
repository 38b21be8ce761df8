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
        pytest.param("1\u202f234\u00a0567", "1234567", id="fixed-spaces"),
        pytest.param("1 234", "1234", id="spaces"),
        pytest.param("1'234", "1234", id="apostrophe"),
        pytest.param("1.234.567", "1234567", id="stops-that-group"),
        pytest.param("1.234,5", "1234.5", id="decimal-comma"),
        pytest.param("12,34,567", "1234567", id="lakh"),
        pytest.param("1\u00bd", "1.5", id="vulgar-fraction"),
        pytest.param("1\u20442", "0.5", id="fraction-slash"),
        pytest.param(r"1\frac12", "1.5", id="latex-mixed"),
        pytest.param(r"$\boxed{-\frac{1}{2}}$", "-0.5", id="latex-sign"),
        pytest.param("3\u00d710\u2075", "300000", id="superscript"),
        pytest.param("\u20135", "-5", id="en-dash"),
        pytest.param("minus 5", "-5", id="minus-word"),
        pytest.param("\uff15\uff10\uff05", "0.5", id="full-width"),
        pytest.param("\u5171\uff14\uff12\u4eba", "42", id="chinese"),
        pytest.param("3\u4e07", "30000", id="chinese-power-of-ten"),
        pytest.param("\u00a35", "\u00a35", id="pounds"),
        pytest.param("\u20ac3.5 million", "3,500,000 euros", id="currency-and-million"),
        pytest.param("$5.2M", "5.2 million", id="letter-for-million"),
        pytest.param("3 bn", "3 billion", id="letters-for-billion"),
        pytest.param("12 dozen", "144", id="dozen"),
        pytest.param("42 \u00b0C", "42 degrees Celsius", id="degrees"),
        pytest.param("36 km/h", "36 km / h", id="compound-unit"),
        pytest.param("42 m\u00b2", "42 m^2", id="squared-unit"),
        pytest.param("42 [CHUNK_3]", "42", id="citation"),
        pytest.param("1,234, as stated", "1234", id="comma-behind"),
        pytest.param("2 + 3 = 5", "5", id="behind-the-equals-sign"),
        pytest.param("3.14159", "3.1416", id="rounding"),
        pytest.param("1/3", "0.3333", id="rounded-reference"),
        pytest.param("5 MW", "5000 kW", id="prefixes-of-symbols"),
        pytest.param("100 kWh", "0.1 MWh", id="energy"),
        pytest.param("10^6", "1,000,000", id="power-of-ten"),
        pytest.param("10^-3", "0.001", id="negative-power-of-ten"),
        pytest.param("3 \xb7 10^8", "300000000", id="middle-dot"),
        pytest.param("No. 7", "7", id="abbreviated-number"),
        pytest.param("The answer is 42!", "42", id="exclamation"),
        pytest.param("\xa35m", "\xa35,000,000", id="m-for-million"),
        pytest.param("US$5 million", "$5,000,000", id="us-dollars"),
        pytest.param("$2 hundred thousand", "$200,000", id="two-multipliers-of-dollars"),
        pytest.param("1.2 thousand million", "1.2 billion", id="two-multipliers"),
        pytest.param("3\u4e07\u4ebf", "3 trillion", id="two-chinese-multipliers"),
        pytest.param("1.5 * 10**-3", "0.0015", id="power-with-asterisks"),
        pytest.param("42 [CHUNK_7]", "42", id="citation-in-brackets"),
        pytest.param('{"answer": 42}', "42", id="object"),
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
        pytest.param("5 MW", "5 mW", id="case-of-a-symbol"),
        pytest.param("$5 million", "$5", id="dollars-and-million"),
        pytest.param("", "42", id="empty"),
        pytest.param("2 thousand", "2 hundred thousand", id="one-multiplier-of-two"),
        pytest.param("1.001", "1000", id="three-decimals"),
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
        pytest.param("1990s", "1990", id="decade"),
        pytest.param("0x10", "16", id="hexadecimal"),
        pytest.param("1h30m", "60 minutes", id="letters-within"),
        pytest.param("1,2,3", "1", id="commas-that-group-nothing"),
        pytest.param("1.2.3", "1", id="version"),
        pytest.param(r"\sqrt{4}", "4", id="root"),
        pytest.param("\u221a4", "4", id="root-sign"),
        pytest.param("3\u2075", "35", id="superscript-power"),
        pytest.param("5k", "5", id="kelvin-or-thousand"),
        pytest.param("1,5", "15", id="decimal-comma-or-list"),
        pytest.param("2 300", "300", id="spaces-or-two-numbers"),
        pytest.param("36 km/h", "10 m/s", id="compound-units"),
        pytest.param("1 km\u00b2", "1000 m\u00b2", id="squared-units"),
        pytest.param("42 square metres", "42 m", id="area"),
        pytest.param("42 \u00b0F", "42 \u00b0C", id="scales"),
        pytest.param("\u00a35", "\u20ac5", id="currencies"),
        pytest.param("10 minus 5", "5", id="difference"),
        pytest.param("B2", "2", id="inside-a-word"),
        pytest.param("more than 42", "42", id="bound"),
        pytest.param("at least 42", "42", id="least"),
        pytest.param("42 or more", "42", id="or-more"),
        pytest.param("x \u2265 42", "42", id="sign-of-a-bound"),
        pytest.param("x >= 42", "42", id="bound-with-equals-sign"),
        pytest.param("42+", "42", id="plus-behind"),
        pytest.param("42-ish", "42", id="ish"),
        pytest.param("half of 42", "42", id="half"),
        pytest.param("twice 42", "42", id="twice"),
        pytest.param("x = 3, y = 42", "42", id="several-variables"),
        pytest.param("5!", "120", id="factorial-or-exclamation"),
        pytest.param("|-4|", "4", id="bars"),
        pytest.param("4.5/5", "4.5", id="rating"),
        pytest.param("0.67", "2/3", id="rounded-quotient"),
        pytest.param("2^-3", "3", id="negative-power"),
        pytest.param("$5", "5 euros", id="dollars-and-euros"),
        pytest.param("42 GB", "42 MB", id="bytes"),
        pytest.param("1.000", "1000", id="full-stop-between-groups"),
        pytest.param("12500", "12.500", id="full-stop-between-groups-of-the-reference"),
        pytest.param("42 is incorrect", "42", id="rejected"),
        pytest.param("anything but 42", "42", id="anything-but"),
        pytest.param("anything except 42", "42", id="anything-except"),
        pytest.param("before 1997", "1997", id="before"),
        pytest.param("mindestens 42", "42", id="german-bound"),
        pytest.param("plus de 42", "42", id="french-bound"),
        pytest.param("\u4e0d\u662f42", "42", id="chinese-negation"),
        pytest.param("42\u4ee5\u4e0a", "42", id="japanese-bound"),
        pytest.param("A$5", "$5", id="australian-dollars"),
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
