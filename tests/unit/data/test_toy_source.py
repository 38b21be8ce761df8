"""The toy prompt source: what was dealt is a number, and the number is enough to go on."""

import pytest

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.prompt_format import parse_prompt
from megatron_longrlvr.data.toy_source import ToyPromptSource
from megatron_longrlvr.data.toy_task import ToyTask

CONFIG = ToyTaskConfig(kind="toy", num_chunks=16, num_evidence=3)


class CharacterTokenizer:
    """One token a character."""

    def encode(self, text):
        return [ord(character) for character in text]


def source(config=CONFIG):
    return ToyPromptSource(config, CharacterTokenizer())


def test_prompts_are_the_tasks_examples_in_order():
    task = ToyTask(CONFIG)
    for index, prompt in enumerate(source().draw(5)):
        example = task.example(index)
        parsed = parse_prompt(prompt.text)
        assert (parsed.chunks, parsed.question) == (example.chunks, example.question)
        assert prompt.chunks == example.chunks
        assert prompt.question == example.question
        assert prompt.evidence_chunk_ids == frozenset(example.evidence_chunk_ids)
        assert list(prompt.reference_answers) == [example.answer]


def test_token_ids_are_those_of_the_text():
    (prompt,) = source().draw(1)
    assert "".join(map(chr, prompt.token_ids)) == prompt.text


def test_drawing_in_parts_equals_drawing_at_once():
    parts = source()
    assert parts.draw(3) + parts.draw(1) + parts.draw(4) == source().draw(8)


def test_a_restored_source_goes_on_where_the_saved_one_stood():
    straight, stopped, resumed = source(), source(), source()
    straight.draw(11)
    stopped.draw(11)
    resumed.restore(stopped.state())
    assert stopped.state() == 11
    assert resumed.draw(4) == straight.draw(4)


def test_prompt_ids_differ_between_splits_and_questions():
    heldout = CONFIG.model_copy(update={"split": "heldout"})
    prompts = source().draw(5) + source(heldout).draw(5)
    assert len({prompt.prompt_id for prompt in prompts}) == 10


@pytest.mark.parametrize("count", [0, -1])
def test_drawing_nothing_is_refused(count):
    with pytest.raises(ValueError, match=str(count)):
        source().draw(count)


def test_restoring_a_negative_position_is_refused():
    with pytest.raises(ValueError, match="-1"):
        source().restore(-1)
