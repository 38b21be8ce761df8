"""``Retry-After``: seconds or a date, never below nothing nor above an hour."""

from datetime import UTC, datetime

import pytest

from megatron_longrlvr.chat.endpoint import retry_after_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("7", 7, id="seconds"),
        pytest.param("0.5", 0.5, id="fraction"),
        pytest.param("-3", 0, id="past-seconds"),
        pytest.param("Sun, 01 Mar 2026 12:01:30 GMT", 90, id="date"),
        pytest.param("Sun, 01 Mar 2026 11:00:00 GMT", 0, id="past-date"),
        pytest.param("86400", 3600, id="above-an-hour"),
        pytest.param(None, None, id="absent"),
        pytest.param("soon", None, id="unreadable"),
        pytest.param("nan", None, id="nan"),
        pytest.param("Sun, 01 Mar 2026 12:01:30 -0000", None, id="no-time-zone"),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after_s(value, now=NOW) == seconds
