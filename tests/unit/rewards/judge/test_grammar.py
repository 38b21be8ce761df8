"""Verdict grammar: two replies mean something, with white space and one reasoning block around."""

import json

import pytest

from megatron_longrlvr.rewards.judge.grammar import VERDICT_SCHEMA, parse_verdict
from megatron_longrlvr.stages import Verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        pytest.param('{"verdict": "yes"}', Verdict.YES, id="yes"),
        pytest.param('{"verdict": "no"}', Verdict.NO, id="no"),
        pytest.param(' \n{ "verdict" :\n"no" }\n', Verdict.NO, id="white-space"),
        pytest.param(
            '<think>It says "yes" first.</think>\n{"verdict": "no"}', Verdict.NO, id="reasoning"
        ),
        pytest.param(
            'It says "yes" first.\n</think>\n\n{"verdict": "no"}', Verdict.NO, id="reasoning-begun"
        ),
    ],
)
def test_a_verdict_is_read(reply, verdict):
    assert parse_verdict(reply) is verdict


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "yes",
        "[[YES]]",
        "I cannot say yes.",
        '{"verdict": "YES"}',
        '{"verdict": "maybe"}',
        '{"verdict": true}',
        '{"verdict": ["yes"]}',
        '{"verdict": null}',
        '{"answer": "yes"}',
        '["verdict", "yes"]',
        '[["verdict", "yes"]]',
        '{"verdict": "yes"',
        '{"verdict": "yes"} {"verdict": "no"}',
        '{"verdict": "no", "verdict": "yes"}',
        '{"verdict": "yes", "reason": "same"}',
        'Verdict: {"verdict": "yes"}',
        '```json\n{"verdict": "yes"}\n```',
        '<think>a</think>b</think>{"verdict": "yes"}',
        '<think>{"verdict": "yes"}',
        'a</think>b</think>{"verdict": "yes"}',
        'a</think>so {"verdict": "yes"}',
        '{"verdict": "no"}</think>{"verdict": "yes"}',
        "[" * 100_000,
        "9" * 10_000,
    ],
)
def test_anything_else_is_no_verdict(reply):
    assert parse_verdict(reply) is None


def test_the_schema_allows_what_the_grammar_reads():
    assert VERDICT_SCHEMA["required"] == list(VERDICT_SCHEMA["properties"])
    for word in VERDICT_SCHEMA["properties"]["verdict"]["enum"]:
        assert parse_verdict(json.dumps({"verdict": word})) is Verdict(word)
