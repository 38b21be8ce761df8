"""Dates: read in the usual notations; the same is right, a contradiction wrong, doubt neither."""

import pytest

from megatron_longrlvr.rewards.answer import date
from megatron_longrlvr.rewards.answer.date import CalendarDate
from megatron_longrlvr.rewards.answer.verification import Ruling

DAY = CalendarDate(year=1990, month=3, day=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("1990-03-12", DAY, id="iso"),
        pytest.param("12 March 1990", DAY, id="day-month-year"),
        pytest.param("12th of March, 1990", DAY, id="ordinal"),
        pytest.param("It was on Mar. 12, 1990.", DAY, id="month-day-year-in-a-sentence"),
        pytest.param("25/12/1990", CalendarDate(year=1990, month=12, day=25), id="day-first"),
        pytest.param("12/25/1990", CalendarDate(year=1990, month=12, day=25), id="month-first"),
        pytest.param("March 1990", CalendarDate(year=1990, month=3), id="month"),
        pytest.param("in 1990", CalendarDate(year=1990), id="year"),
        pytest.param("03/04/1990", None, id="ambiguous-order"),
        pytest.param("30 February 1990", None, id="no-such-day"),
        pytest.param("0000-01-01", None, id="no-such-year"),
        pytest.param("1990 or 1991", None, id="two-dates"),
        pytest.param("not 1990", None, id="negation"),
        pytest.param("before 1990", None, id="bound"),
        pytest.param("'90", None, id="two-digits"),
        pytest.param("chapter 19901", None, id="longer-number"),
    ],
)
def test_date_that_a_text_names(text, expected):
    assert date.read_date(text) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "ruling"),
    [
        pytest.param("March 12, 1990", "1990-03-12", Ruling.RIGHT, id="same"),
        pytest.param("March 13, 1990", "1990-03-12", Ruling.WRONG, id="other-day"),
        pytest.param("April 1990", "12 March 1990", Ruling.WRONG, id="other-month"),
        pytest.param("1991", "12 March 1990", Ruling.WRONG, id="other-year"),
        pytest.param("March 1990", "12 March 1990", Ruling.UNDECIDED, id="less-precise"),
        pytest.param("12 March 1990", "March 1990", Ruling.UNDECIDED, id="more-precise"),
        pytest.param("long ago", "1990", Ruling.UNDECIDED, id="no-date"),
        pytest.param(" ", "1990", Ruling.WRONG, id="empty"),
    ],
)
def test_ruling(answer, reference, ruling):
    assert date.verify(answer, reference).ruling is ruling
