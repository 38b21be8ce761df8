"""The judge over HTTP, against a real server that fails as it is told.

Promise: whatever a server does, an answer gets the verdict that was given for it or none with a
reason, never a wrong one; passing trouble is retried, a dead endpoint left alone, limits kept.
Times are the server's and the client's own; no test measures one.
"""

import asyncio
import json
import sqlite3

import pytest

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.rewards.judge.client import JudgeClient
from megatron_longrlvr.rewards.judge.query import NoVerdict
from megatron_longrlvr.rewards.judge.service import open_judge
from megatron_longrlvr.rewards.judge.template import load_template
from megatron_longrlvr.stages import Verdict
from tests.support.clocks import TestClock
from tests.support.judge_server import JudgeServer, Reply, honest, verdict
from tests.support.judges import judge_config, open_test_judge, query

QUERIES = [query(f"{'Paris' if index % 3 else 'Rome'} {index}") for index in range(30)]
TRUTH = [Verdict.YES if index % 3 else Verdict.NO for index in range(30)]


def first_attempt_of(request, server):
    """Whether no earlier request asked about this answer."""
    return all(other.answer != request.answer for other in server.requests[: request.index])


def always(reply):
    return lambda request: reply  # noqa: ARG005


def verdicts(judgements):
    return [one.verdict for one in judgements]


def test_verdicts_are_those_of_the_server_in_the_order_asked():
    with JudgeServer() as server, open_test_judge(server.url) as judge:
        judgements = judge.collect(QUERIES)
        traffic = judge.take_traffic()
    assert verdicts(judgements) == TRUTH
    assert all(one.reason == "" and not one.is_cached for one in judgements)
    assert (traffic.requests, traffic.retries, traffic.circuit_openings) == (30, 0, 0)


def test_a_request_says_what_a_chat_completion_needs():
    with JudgeServer() as server, open_test_judge(server.url) as judge:
        judge.collect([query()])
    (request,) = server.requests
    assert request.payload["model"] == "referee"
    assert request.payload["temperature"] == 0
    assert request.payload["response_format"]["type"] == "json_schema"
    assert [message["role"] for message in request.payload["messages"]] == ["system", "user"]
    assert (request.question, request.references, request.answer) == (
        "Which city?",
        ["Paris"],
        "Paris",
    )


# (what the server sends, what it is called): each ends in no verdict when it goes on.
TROUBLE = [
    pytest.param(Reply(status=500), NoVerdict.SERVER_ERROR, id="500"),
    pytest.param(Reply(status=429), NoVerdict.RATE_LIMITED, id="429"),
    pytest.param(Reply(status=401), NoVerdict.REFUSED, id="401"),
    pytest.param(Reply(hangs=True), NoVerdict.TIMEOUT, id="hangs"),
    pytest.param(verdict(True, sent_share=0.9), NoVerdict.BROKEN_REPLY, id="half-body"),
    pytest.param(verdict(True, sent_share=0.1), NoVerdict.BROKEN_REPLY, id="half-head"),
    pytest.param(verdict(True, sent_share=0.0), NoVerdict.BROKEN_REPLY, id="hangs-up"),
    pytest.param(Reply(body=b'{"choices": ['), NoVerdict.BROKEN_REPLY, id="invalid-json"),
    pytest.param(Reply(body=b'{"choices": []}'), NoVerdict.BROKEN_REPLY, id="no-choice"),
    pytest.param(Reply(body=b"\xff\xfe"), NoVerdict.BROKEN_REPLY, id="no-text"),
    pytest.param(Reply(content="Yes, I think."), NoVerdict.WRONG_GRAMMAR, id="prose"),
    pytest.param(Reply(content='{"verdict": "maybe"}'), NoVerdict.WRONG_GRAMMAR, id="maybe"),
]
SHORT = {"retry__read_timeout_s": 0.2, "retry__total_timeout_s": 5.0, "breaker__failures": 100}


@pytest.mark.parametrize(("reply", "reason"), TROUBLE)
def test_lasting_trouble_ends_in_no_verdict_with_its_reason(reply, reason):
    with JudgeServer(always(reply)) as server, open_test_judge(server.url, **SHORT) as judge:
        (judgement,) = judge.collect([query()])
    assert (judgement.verdict, judgement.reason) == (Verdict.NONE, reason)
    assert len(server.requests) == 4  # retry.max_attempts of the test's judge


@pytest.mark.parametrize(("reply", "reason"), TROUBLE)
def test_passing_trouble_is_retried_and_changes_no_verdict(reply, reason):  # noqa: ARG001
    with JudgeServer() as server, open_test_judge(server.url, **SHORT) as judge:
        server.script = lambda request: (
            reply if first_attempt_of(request, server) else honest(request)
        )
        judgements = judge.collect(QUERIES[:6])
        traffic = judge.take_traffic()
    assert verdicts(judgements) == TRUTH[:6]
    assert (traffic.requests, traffic.retries) == (12, 6)


def test_a_reply_that_takes_its_time_is_waited_for():
    with JudgeServer(always(verdict(True, latency_s=5.0))) as server:
        patient = {"retry__read_timeout_s": 20.0, "retry__total_timeout_s": 60.0}
        with open_test_judge(server.url, **patient) as judge:
            judgements = judge.collect(QUERIES[:16])
    assert verdicts(judgements) == [Verdict.YES] * 16
    assert len(server.requests) == 16
    assert all(one.latency_s >= 5 for one in judgements)


def test_retry_after_is_waited_for_by_everybody():
    slow_down = Reply(status=429, headers={"retry-after": "1"})
    with JudgeServer() as server, open_test_judge(server.url) as judge:
        server.script = lambda request: slow_down if request.index == 0 else honest(request)
        (first,) = judge.collect(QUERIES[:1])
        assert first.verdict is TRUTH[0]
        assert first.latency_s >= 1
        assert len(server.requests) == 2


@pytest.mark.parametrize("percent", [0, 10, 50, 100])
def test_the_answers_that_fail_have_no_verdict_and_the_others_have_theirs(percent):
    doomed = {one.answer for one in QUERIES[: len(QUERIES) * percent // 100]}

    def script(request):
        return Reply(status=500) if request.answer in doomed else honest(request)

    with (
        JudgeServer(script) as server,
        open_test_judge(server.url, breaker__failures=10_000) as judge,
    ):
        judgements = judge.collect(QUERIES)
    assert verdicts(judgements) == [
        Verdict.NONE if one.answer in doomed else true
        for one, true in zip(QUERIES, TRUTH, strict=True)
    ]


def test_one_dead_endpoint_of_two_is_left_alone():
    with (
        JudgeServer() as living,
        JudgeServer() as dying,
        open_test_judge(living.url, dying.url, breaker__open_s=60.0) as judge,
    ):
        judge.collect(QUERIES[:10])
        assert living.requests
        assert dying.requests  # both take part
        dying.die()
        judgements = judge.collect(QUERIES[10:])
        traffic = judge.take_traffic()
    assert verdicts(judgements) == TRUTH[10:]
    assert traffic.circuit_openings == 1


def test_an_endpoint_that_comes_back_is_used_again():
    with JudgeServer(always(Reply(status=500))) as server, open_test_judge(server.url) as judge:
        assert verdicts(judge.collect(QUERIES)) == [Verdict.NONE] * 30
        assert not judge.probe()
        server.script = honest
        while not judge.probe():  # the circuit is open for 0.05 s at most
            pass
        assert verdicts(judge.collect(QUERIES)) == TRUTH


def test_a_dead_server_is_not_asked_for_every_answer():
    with (
        JudgeServer(always(Reply(status=500))) as server,
        open_test_judge(server.url, breaker__open_s=60.0) as judge,
    ):
        judgements = judge.collect(QUERIES)
    assert verdicts(judgements) == [Verdict.NONE] * 30
    # 16 are under way when the circuit opens.
    assert len(server.requests) <= 16 + 5


def test_no_more_requests_are_under_way_than_allowed():
    script = always(verdict(True, latency_s=0.02))
    with JudgeServer(script) as server, open_test_judge(server.url) as judge:
        judge.collect(QUERIES)
    assert server.most_open == 16


def test_judging_starts_before_it_is_waited_for():
    with JudgeServer() as server, open_test_judge(server.url) as judge:
        judge.start(QUERIES[0])
        while not server.requests:  # ends only if a request comes without collect()
            pass
        assert verdicts(judge.collect(QUERIES[:1])) == TRUTH[:1]
        assert len(server.requests) == 1


def test_equal_answers_are_asked_about_once():
    with JudgeServer() as server, open_test_judge(server.url) as judge:
        judgements = judge.collect([QUERIES[1]] * 4)
    assert len(server.requests) == 1
    assert [one.is_cached for one in judgements] == [False, True, True, True]


def test_votes_are_separate_requests_and_the_majority_decides():
    def script(request):
        return verdict(request.index % 3 == 0)  # one yes, two noes

    with (
        JudgeServer(script) as server,
        open_test_judge(server.url, votes=3, temperature=0.7) as judge,
    ):
        (judgement,) = judge.collect([query()])
    assert judgement.verdict is Verdict.NO
    assert len(server.requests) == 3


def test_verdicts_are_kept_over_starts_and_failures_are_not(tmp_path):
    doomed = QUERIES[0].answer
    settings = {"run_dir": tmp_path, "cache": "judge.sqlite", "breaker__failures": 100}
    with JudgeServer() as server:
        server.script = lambda request: (
            Reply(status=500) if request.answer == doomed else honest(request)
        )
        with open_test_judge(server.url, **settings) as judge:
            judge.collect(QUERIES)
        server.script = honest
        server.requests.clear()
        with open_test_judge(server.url, **settings) as judge:
            judgements = judge.collect(QUERIES)
    assert verdicts(judgements) == TRUTH
    assert [request.answer for request in server.requests] == [doomed]
    assert [one.is_cached for one in judgements] == [False] + [True] * 29
    (rows,) = sqlite3.connect(tmp_path / "judge.sqlite").execute("select count(*) from verdicts")
    assert rows == (30,)


def test_a_key_travels_in_its_header_and_nowhere_else(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("JUDGE_KEY", "s3cret-value")
    caplog.set_level("DEBUG")
    with JudgeServer() as server:
        endpoint = {"url": server.url, "api_key_env": "JUDGE_KEY"}
        settings = {"endpoints": [endpoint], "cache": "judge.sqlite", "run_dir": tmp_path}
        with open_test_judge(server.url, **settings) as judge:
            judge.collect(QUERIES)
            server.die()
            judge.collect([query("another")])
    assert {request.headers["authorization"] for request in server.requests} == {
        "Bearer s3cret-value"
    }
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    shown = "".join(capfd.readouterr()) + caplog.text
    config = judge_config(endpoints=[endpoint]).model_dump_json()
    payloads = json.dumps([request.payload for request in server.requests])
    assert "s3cret" not in shown + config + payloads
    assert b"s3cret" not in written


@pytest.mark.parametrize("value", [None, " "], ids=["absent", "blank"])
def test_a_missing_key_is_named_before_anything_is_sent(monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    config = judge_config(endpoints=[{"url": "http://judge", "api_key_env": "JUDGE_KEY"}])
    with pytest.raises(ConfigError, match="environment variable JUDGE_KEY holds no key"):
        open_judge(config, run_dir=None)


def test_requests_per_minute_are_kept():
    clock = TestClock()
    started = clock.now()

    async def ask_all(url):
        config = judge_config(endpoints=[{"url": url, "requests_per_minute": 300}])
        client = JudgeClient(config, load_template(config.template), {}, clock=clock)
        votes = await asyncio.gather(*[client.ask(one) for one in QUERIES[:8]])
        await client.close()
        return votes

    with JudgeServer() as server:
        assert verdicts(asyncio.run(ask_all(server.url))) == TRUTH[:8]
    # 5 a second, 5 at once: the last of 8 passes 0.6 s after the first.
    assert clock.now() - started == pytest.approx(0.6)


def test_closing_gives_up_what_is_under_way():
    with JudgeServer(always(Reply(hangs=True))) as server:
        service = open_judge(judge_config(server.url), run_dir=None)
        service.start(query())
        while not server.requests:
            pass
        service.close()
        service.close()
    assert len(server.requests) == 1
