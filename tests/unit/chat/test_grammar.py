"""Replies of one JSON object, and how servers are asked for it; see also the judge's verdicts."""

import pytest

from megatron_longrlvr.chat.grammar import read_object, structured_output

SCHEMA = {"type": "object"}


def test_an_object_is_read_with_white_space_and_one_reasoning_block_around():
    assert read_object('<think>{"a": 1}</think>\n {"b": [2, {"c": "d"}]} ') == {
        "b": [2, {"c": "d"}]
    }


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param('{"a": 1, "a": 2}', id="repeated-key"),
        pytest.param('{"a": {"b": 1, "b": 2}}', id="repeated-key-inside"),
        pytest.param('Rating: {"a": 1}', id="prose-before"),
        pytest.param('{"a": 1}\n{"a": 1}', id="twice"),
        pytest.param('```json\n{"a": 1}\n```', id="fenced"),
        pytest.param("[1]", id="list"),
        pytest.param("7", id="number"),
        pytest.param('<think>{"a": 1}', id="reasoning-alone"),
    ],
)
def test_anything_else_is_no_reply(reply):
    assert read_object(reply) is None


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        pytest.param("json_object", "response_format", id="json-object"),
        pytest.param("json_schema", "response_format", id="json-schema"),
        pytest.param("guided_json", "guided_json", id="older-vllm"),
        pytest.param("structured_outputs", "structured_outputs", id="vllm"),
    ],
)
def test_each_kind_of_structured_output_is_one_field_of_the_request(kind, field):
    assert list(structured_output(kind, name="n", schema=SCHEMA)) == [field]
    assert structured_output("none", name="n", schema=SCHEMA) == {}
