"""The live page: newest data, nothing read twice, and nobody served who should not be."""

import http.client
import json
import threading
from contextlib import contextmanager
from html import unescape

import pytest

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.watch import (
    TOKEN_VARIABLE,
    LiveReport,
    WatchRequest,
    is_loopback,
    open_server,
)
from tests.unit.observability.builders import scored_sample
from tests.unit.reporting.run_dirs import make_run

TOKEN = "0123456789abcdef"


@contextmanager
def served(run_dir, **options):
    server = open_server(WatchRequest(run_dirs=(run_dir,), **options))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(server, path, **headers):
    """Status, headers and body; names of headers are spelled with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=given)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def append(run_dir, step, value):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "kind": "train", names.REWARD_MEAN: value}) + "\n")


@pytest.fixture
def run_dir(tmp_path):
    return make_run(
        tmp_path / "a", train={1: {names.REWARD_MEAN: 0.5}}, samples={1: [scored_sample()]}
    )


def test_page_and_data_are_those_of_the_run(run_dir):
    with served(run_dir) as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert "token" not in server.address
        status, headers, page = get(server, "/")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "connect-src 'self'" in unescape(page)
        status, _, body = get(server, "/data.json")
        columns = json.loads(body)["runs"][0]["metrics"]["train"]
        assert (status, columns["values"][names.REWARD_MEAN]) == (200, [0.5])
        assert get(server, "/config.json")[0] == 404
        assert get(server, "/../a/config.json")[0] == 404


def test_data_come_again_only_when_something_was_logged(run_dir):
    with served(run_dir) as server:
        _, headers, _ = get(server, "/data.json")
        status, _, body = get(server, "/data.json", If_None_Match=headers["ETag"])
        assert (status, body) == (304, "")
        append(run_dir, 2, 0.75)
        status, newer, body = get(server, "/data.json", If_None_Match=headers["ETag"])
        assert status == 200
        assert newer["ETag"] != headers["ETag"]
        columns = json.loads(body)["runs"][0]["metrics"]["train"]
        assert columns["values"][names.REWARD_MEAN] == [0.5, 0.75]


def test_a_file_that_is_half_there_is_an_answer_and_not_the_end(run_dir):
    with served(run_dir) as server:
        (run_dir / "config.json").write_text("{")
        status, _, body = get(server, "/data.json")
        assert status == 503
        assert "config.json is not JSON" in json.loads(body)["error"]


def test_sample_files_are_read_once(run_dir, monkeypatch):
    live = LiveReport(WatchRequest(run_dirs=(run_dir,)))
    live.page()
    monkeypatch.setattr("megatron_longrlvr.reporting.watch.read_samples", None)
    append(run_dir, 2, 0.75)
    assert live.data(None)[1] is not None


def test_a_name_that_somebody_points_at_this_machine_is_not_served(run_dir):
    with served(run_dir) as server:
        assert get(server, "/", Host="attacker.example")[0] == 403
        assert get(server, "/data.json", Host="attacker.example:80")[0] == 403
        assert get(server, "/", Host="localhost:1")[0] == 200


def test_other_addresses_need_the_token(run_dir, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with served(run_dir, host="0.0.0.0") as server:
        assert server.address.endswith(f"?token={TOKEN}")
        for path in ("/", "/data.json", "/?token=", f"/?token={TOKEN[:-1]}x"):
            assert get(server, path)[0] == 401, path
        assert get(server, "/", Cookie="longrlvr_watch=wrong")[0] == 401
        status, headers, _ = get(server, f"/?token={TOKEN}")
        # The token moves from the address into a cookie that no script reads.
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert get(server, "/data.json", Cookie=cookie.split(";")[0])[0] == 200


def test_a_token_is_drawn_where_none_is_given(run_dir, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with served(run_dir, host="0.0.0.0") as first, served(run_dir, host="0.0.0.0") as second:
        assert len(first.token) >= 32
        assert first.token != second.token


def test_a_short_token_and_a_wrong_directory_are_refused(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE} has 5 characters, needs 16"):
        open_server(WatchRequest(run_dirs=(run_dir,), host="0.0.0.0"))
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        open_server(WatchRequest(run_dirs=(tmp_path,)))


def test_a_port_that_is_taken_is_named(run_dir):
    with served(run_dir) as server:
        port = server.server_address[1]
        with pytest.raises(ConfigError, match=f"cannot listen at --host 127.0.0.1 --port {port}"):
            open_server(WatchRequest(run_dirs=(run_dir,), port=port))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "node7", "")),
    ],
)
def test_addresses_of_this_machine_alone(host, expected):
    assert is_loopback(host) is expected
