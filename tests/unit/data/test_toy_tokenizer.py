"""The toy tokenizer: one token for each word and tag, nothing unknown, tags readable again."""

import pytest

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.response_format import parse_strict
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.data.toy_task import ToyTask
from megatron_longrlvr.data.toy_tokenizer import (
    END,
    PAD,
    UNKNOWN,
    toy_vocabulary,
    write_toy_tokenizer,
)

LARGEST = ToyTaskConfig(kind="toy", num_chunks=64)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_toy_tokenizer(folder)
    return load_tokenizer(folder)


def words_of(tokenizer, text):
    return tokenizer.backend.convert_ids_to_tokens(tokenizer.encode(text))


def test_no_token_stands_in_the_vocabulary_twice():
    assert len(set(toy_vocabulary())) == len(toy_vocabulary())


def test_saved_folder_keeps_ids_and_special_tokens(tokenizer):
    vocabulary = toy_vocabulary()
    assert tokenizer.vocab_size == len(vocabulary)
    assert tokenizer.stop_ids == {vocabulary.index(END)}
    assert tokenizer.pad_id == vocabulary.index(PAD)
    assert tokenizer.backend.convert_ids_to_tokens(range(len(vocabulary))) == list(vocabulary)


def test_tags_touching_words_are_tokens_of_their_own(tokenizer):
    text = "\n\nDocument:\n<CHUNK_0>ada ben lamp</CHUNK_0>\n\nQuestion: ben ada"
    assert words_of(tokenizer, text) == [
        *("Document:", "<CHUNK_0>", "ada", "ben", "lamp", "</CHUNK_0>"),
        *("Question:", "ben", "ada"),
    ]


def test_largest_prompt_and_its_demonstration_hold_no_unknown_token(tokenizer):
    task = ToyTask(LARGEST)
    unknown = toy_vocabulary().index(UNKNOWN)
    for index in range(20):
        example = task.example(index)
        prompt = render_prompt(chunks=example.chunks, question=example.question, instruction="")
        # Five tokens a chunk; both headings and four givers.
        assert len(tokenizer.encode(prompt)) == 5 * 64 + 2 + 4
        assert unknown not in tokenizer.encode(prompt + task.demonstration(index))


def test_a_word_outside_the_vocabulary_becomes_unknown(tokenizer):
    assert words_of(tokenizer, "ada ben zeppelin") == ["ada", "ben", UNKNOWN]


def test_a_demonstration_survives_encoding_and_decoding(tokenizer):
    task = ToyTask(LARGEST)
    for index in range(20):
        example = task.example(index)
        ids = tokenizer.encode(task.demonstration(index))
        # Four tags, four labelled citations, four gifts with their givers.
        assert len(ids) == 4 + 2 * 4 + 2 * 4
        parsed = parse_strict(tokenizer.decode([*ids, *tokenizer.stop_ids]))
        assert parsed.cited_chunk_ids == example.evidence_chunk_ids
        assert parsed.answer == example.answer
