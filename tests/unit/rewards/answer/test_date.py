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
        pytest.param("1990/3/12", DAY, id="slashes"),
        pytest.param("1990-03-12T10:00:00Z", DAY, id="time"),
        pytest.param("12-Mar-1990", DAY, id="short-month"),
        pytest.param("the 12th of March 1990", DAY, id="article"),
        pytest.param("1990 March 12", DAY, id="year-first"),
        pytest.param("\u4e8e\uff11\uff19\uff19\uff10\u5e743\u670812\u65e5", DAY, id="chinese"),
        pytest.param("1990\u201103\u201112", DAY, id="other-hyphens"),
        pytest.param(r"\boxed{\text{March 12, 1990}}", DAY, id="boxed"),
        pytest.param("Monday, March\u00a012, 1990 [CHUNK_4]", DAY, id="weekday-and-citation"),
        pytest.param(
            "25-12-1990", CalendarDate(year=1990, month=12, day=25), id="dashes-day-first"
        ),
        pytest.param("1990-03", CalendarDate(year=1990, month=3), id="iso-month"),
        pytest.param("1990\u5e743\u6708", CalendarDate(year=1990, month=3), id="chinese-month"),
        pytest.param("1990-1995", None, id="period"),
        pytest.param("1990s", None, id="decade"),
        pytest.param("1200 BC", None, id="before-christ"),
        pytest.param("12-03-1990", None, id="ambiguous-order-dashes"),
        pytest.param("Version 2.0.1990", None, id="version"),
        pytest.param("03/04/1990", None, id="ambiguous-order"),
        pytest.param("30 February 1990", None, id="no-such-day"),
        pytest.param("0000-01-01", None, id="no-such-year"),
        pytest.param("1990 or 1991", None, id="two-dates"),
        pytest.param("not 1990", None, id="negation"),
        pytest.param("before 1990", None, id="bound"),
        pytest.param("12 March 1990 is wrong", None, id="rejected"),
        pytest.param("'90", None, id="two-digits"),
        pytest.param("by 12 March 1990", None, id="by"),
        pytest.param("late 1990", None, id="late"),
        pytest.param("spring 1990", None, id="season"),
        pytest.param("Q3 1990", None, id="quarter"),
        pytest.param("the end of 1990", None, id="end"),
        pytest.param("1990 onwards", None, id="onwards"),
        pytest.param("1990 or later", None, id="or-later"),
        pytest.param("12 and 13 March 1990", None, id="two-days"),
        pytest.param("published by Penguin in 1990", CalendarDate(year=1990), id="by-somebody"),
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
