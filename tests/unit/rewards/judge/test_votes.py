"""Majority: more than half of the votes asked for, so that failures cannot make one."""

import pytest

from megatron_longrlvr.rewards.judge.query import NoVerdict
from megatron_longrlvr.rewards.judge.votes import Vote, majority
from megatron_longrlvr.stages import Verdict

YES, NO = Vote(verdict=Verdict.YES), Vote(verdict=Verdict.NO)
SLOW = Vote(verdict=Verdict.NONE, reason=NoVerdict.TIMEOUT)
ODD = Vote(verdict=Verdict.NONE, reason=NoVerdict.WRONG_GRAMMAR)


@pytest.mark.parametrize(
    ("votes", "outcome"),
    [
        pytest.param([YES], YES, id="one"),
        pytest.param([SLOW], SLOW, id="one-failed"),
        pytest.param([YES, NO, YES], YES, id="two-of-three"),
        pytest.param([NO, SLOW, NO], NO, id="two-and-a-failure"),
        # One of three is no majority, though it is all there is.
        pytest.param([YES, SLOW, SLOW], SLOW, id="failures-make-no-majority"),
        pytest.param([YES, NO, SLOW], SLOW, id="tie-with-a-failure"),
        pytest.param([YES, YES, ODD, SLOW, ODD], ODD, id="commonest-reason"),
    ],
)
def test_majority(votes, outcome):
    assert majority(votes) == outcome


def test_an_even_split_without_failures_is_called_so():
    assert majority([YES, NO]).reason is NoVerdict.SPLIT_VOTE
