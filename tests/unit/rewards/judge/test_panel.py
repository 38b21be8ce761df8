"""Panel: verdicts in order, and the rule that ends or pauses a run when too many are missing.

The judge of these tests fails by script; time is counted, nobody sleeps.
"""

import pytest

from megatron_longrlvr.chat.client import Traffic
from megatron_longrlvr.config.judge import JudgeOutageConfig
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.rewards.judge.panel import JudgePanel, Peers
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.recorded import RecordedJudge
from megatron_longrlvr.stages import Judgement, Verdict

QUERIES = [JudgeQuery(question="q", references=("r",), answer=str(index)) for index in range(10)]
YES = Judgement(verdict=Verdict.YES)
NONE = Judgement(verdict=Verdict.NONE, reason="connection")


class Scripted:
    """A judge whose n-th collection misses the first ``missing[n]`` verdicts; probes by script."""

    def __init__(self, missing, probes=()):
        self.missing, self.probes = list(missing), list(probes)
        self.asked = []

    def start(self, query):
        """Nothing is done ahead."""

    def collect(self, queries):
        self.asked.append([query.answer for query in queries])
        missing = self.missing.pop(0)
        return [NONE if index < missing else YES for index in range(len(queries))]

    def probe(self):
        return self.probes.pop(0)

    def take_traffic(self):
        return Traffic()

    def close(self):
        """Nothing is held."""


def panel(judge, *, said=None, slept=None, others=(0.0, 0.0), is_stop_asked=False, **outage):
    """A panel whose pauses are noted; ``others`` is what the other replicas add to the counts."""
    settings = {"max_failure_rate": 0.2, "probe_every_s": 10.0, "max_pause_s": 60.0, **outage}
    return JudgePanel(
        judge=judge,
        outage=JudgeOutageConfig(**settings),
        peers=Peers(
            say=(said if said is not None else []).append,
            sleep=(slept if slept is not None else []).append,
            sum_over_replicas=lambda values: tuple(
                a + b for a, b in zip(values, others, strict=True)
            ),
            is_stop_asked=lambda: is_stop_asked,
        ),
    )


def test_verdicts_come_in_the_order_of_the_queries():
    verdicts = {query: Verdict.YES if int(query.answer) % 2 else Verdict.NO for query in QUERIES}
    judgements = panel(RecordedJudge(verdicts)).collect(QUERIES)
    assert [one.verdict for one in judgements] == [verdicts[query] for query in QUERIES]


def test_as_many_missing_as_allowed_are_left_missing():
    judge = Scripted([2])
    judgements = panel(judge, action="stop").collect(QUERIES)
    assert judgements == [NONE] * 2 + [YES] * 8


def test_one_more_stops_the_run_where_pauses_are_not_wanted():
    with pytest.raises(JudgeUnavailable, match=r"no verdict on 3 of 10 answers \(connection 3\)"):
        panel(Scripted([3]), action="stop").collect(QUERIES)


def test_a_pause_lasts_until_a_probe_gets_through_and_asks_for_the_missing_only():
    judge, said, slept = Scripted([3, 1], probes=[False, True]), [], []
    judgements = panel(judge, said=said, slept=slept).collect(QUERIES)
    assert judge.asked == [[str(index) for index in range(10)], ["0", "1", "2"]]
    assert judgements == [NONE] + [YES] * 9
    assert slept == [10.0, 10.0]
    assert "3 of 10" in said[0]
    assert "pausing, with a probe every 10 s for at most 60 s" in said[0]
    assert "answers again after 20 s" in said[1]


def test_time_paused_is_reported_once():
    paused = panel(Scripted([10, 0], probes=[False, True]))
    paused.collect(QUERIES)
    assert paused.take_traffic().paused_s == 20
    assert paused.take_traffic().paused_s == 0


def test_a_pause_ends_the_run_when_its_time_is_up():
    slept = []
    with pytest.raises(JudgeUnavailable, match=r"10 of 10 .* waited 60 s"):
        panel(Scripted([10], probes=[False] * 6), slept=slept).collect(QUERIES)
    assert slept == [10.0] * 6


def test_a_judge_that_probes_well_and_judges_badly_does_not_hold_a_run_forever():
    # Every pause ends with its first probe; all of them together may last 60 s.
    judge, slept = Scripted([10] * 7, probes=[True] * 6), []
    with pytest.raises(JudgeUnavailable, match="waited 60 s"):
        panel(judge, slept=slept).collect(QUERIES)
    assert len(judge.asked) == 7
    assert sum(slept) == 60


def test_a_request_to_stop_ends_a_pause():
    with pytest.raises(JudgeUnavailable, match="told to stop while waiting"):
        panel(Scripted([10], probes=[False]), is_stop_asked=True).collect(QUERIES)


def test_the_rate_is_that_of_all_replicas():
    # 3 of 10 here, none of 10 there: 15 %.
    judgements = panel(Scripted([3]), others=(0.0, 10.0), action="stop").collect(QUERIES)
    assert judgements.count(NONE) == 3
    # none of 10 here, 5 of 10 there: 25 %.
    with pytest.raises(JudgeUnavailable, match="5 of 20"):
        panel(Scripted([0]), others=(5.0, 10.0), action="stop").collect(QUERIES)


def test_without_queries_nothing_is_missing():
    assert panel(Scripted([0]), max_failure_rate=0).collect([]) == []
