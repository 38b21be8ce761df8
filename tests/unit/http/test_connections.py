"""Requests over real connections: what comes back, and what is said when nothing does."""

import asyncio

import pytest

from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.http.connections import Connections, HttpFailure, HttpTimeouts, HttpTrouble
from tests.support.http_server import HttpReply, HttpServer

PATIENT = HttpTimeouts(connect_s=5.0, read_s=5.0)
HASTY = HttpTimeouts(connect_s=5.0, read_s=0.1)


class Echo(HttpServer):
    """Says what it was asked, or does what ``reply`` says."""

    def __init__(self, reply=None):
        super().__init__()
        self.reply = reply
        self.seen = []

    async def answer(self, route, headers, payload):
        self.seen.append((route, headers, payload))
        return self.reply or HttpReply(status=201, headers={"X-Place": "here"}, body=b'{"a": 1}')


def ask(url, *requests, count=2, timeouts=PATIENT, headers=()):
    """Replies or failures of requests that are sent together."""

    async def send():
        connections = Connections(url, count=count, headers=headers)
        sent = (connections.request(*request, timeouts) for request in requests)
        try:
            return await asyncio.gather(*sent, return_exceptions=True)
        finally:
            await connections.close()

    return asyncio.run(send())


def test_method_path_headers_and_body_arrive_and_the_reply_comes_back():
    with Echo() as server:
        (reply,) = ask(f"{server.address}/v1/", ("POST", "/x?y=1", b"[2]"), headers=[(b"k", b"v")])
    ((route, headers, payload),) = server.seen
    assert (route, payload, headers["k"]) == ("POST /v1/x?y=1", [2], "v")
    assert (reply.status, reply.content) == (201, b'{"a": 1}')
    assert reply.headers[b"x-place"] == b"here"


def test_no_more_requests_are_under_way_than_there_are_connections():
    with Echo(HttpReply(latency_s=0.01)) as server:
        replies = ask(server.address, *[("GET", "/", b"")] * 7, count=3)
    assert [reply.status for reply in replies] == [200] * 7
    assert server.most_open == 3


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        pytest.param(HttpReply(hangs=True), HttpTrouble.TIMEOUT, id="hangs"),
        pytest.param(HttpReply(sent_share=0.5), HttpTrouble.BROKEN_REPLY, id="cut-off"),
    ],
)
def test_a_reply_that_does_not_come_whole_is_a_failure_with_its_reason(reply, trouble):
    with Echo(reply) as server:
        (failure,) = ask(server.address, ("GET", "/", b""), timeouts=HASTY)
    assert isinstance(failure, HttpFailure)
    assert failure.trouble is trouble


def test_nobody_there_is_a_failure_with_its_reason():
    with Echo() as server:
        address = server.address
    (failure,) = ask(address, ("GET", "/", b""))
    assert failure.trouble is HttpTrouble.CONNECTION


def test_a_connection_that_failed_is_used_again():
    with Echo(HttpReply(sent_share=0.5)) as server:

        async def send():
            connections = Connections(server.address, count=1)
            with pytest.raises(HttpFailure):
                await connections.request("GET", "/", b"", PATIENT)
            server.reply = None
            reply = await connections.request("GET", "/", b"", PATIENT)
            await connections.close()
            return reply.status

        assert asyncio.run(send()) == 201


def test_background_work_is_given_up_when_the_loop_is_closed():
    loop, log = BackgroundLoop("test"), []

    async def wait_for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            log.append("given up")

    async def end():
        log.append("end")

    waiting = loop.submit(wait_for_ever())
    assert loop.submit(asyncio.sleep(0, "done")).result(timeout=5) == "done"
    loop.close(end)
    loop.close(end)
    assert waiting.cancelled()
    assert log == ["given up", "end"]
