"""Tokenizer wrapper: nothing added, only stop and padding tokens dropped, local files only."""

import json

import pytest

from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import ConfigError
from tests.support.word_tokenizer import CHAT_TEMPLATE, save_word_tokenizer

# Ids follow the order of the helper's tokens.
PAD, EOS, UNK, TURN, CHUNK_0, THE, SKY, IS, BLUE = range(9)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_word_tokenizer(tmp_path_factory.mktemp("plain")))


def test_encoding_adds_no_token_and_recognises_special_ones(tokenizer):
    assert tokenizer.encode("the sky <CHUNK_0> <eos>") == [THE, SKY, CHUNK_0, EOS]
    assert tokenizer.encode("") == []


def test_decoding_drops_stop_and_padding_tokens_alone(tokenizer):
    ids = [CHUNK_0, SKY, IS, BLUE, TURN, EOS, PAD]
    assert tokenizer.decode(ids) == "<CHUNK_0> sky is blue <turn>"
    assert tokenizer.decode([EOS]) == ""


def test_sizes_and_ids_are_those_of_the_files(tokenizer):
    assert tokenizer.vocab_size == 10
    assert tokenizer.pad_id == PAD
    assert tokenizer.stop_ids == {EOS}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(TURN, {EOS, TURN}, id="one"),
        pytest.param([TURN, EOS], {EOS, TURN}, id="list"),
        pytest.param(None, {EOS}, id="null"),
    ],
)
def test_generation_config_adds_stop_tokens(tmp_path, given, expected):
    save_word_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.stop_ids == expected
    stopped = tokenizer.decode([SKY, TURN])
    assert stopped == ("sky" if TURN in expected else "sky <turn>")


def test_stop_token_pads_where_there_is_no_padding_token(tmp_path):
    assert load_tokenizer(save_word_tokenizer(tmp_path, pad_token=None)).pad_id == EOS


def test_text_without_chat_template_is_unchanged(tokenizer):
    assert tokenizer.render_chat("the  sky\n") == "the  sky\n"


def test_messages_without_chat_template_are_joined(tokenizer):
    messages = [{"role": "system", "content": "the"}, {"role": "user", "content": "sky"}]
    assert tokenizer.render_messages(messages) == "the\n\nsky"


def test_chat_template_opens_the_response(tmp_path):
    tokenizer = load_tokenizer(save_word_tokenizer(tmp_path, chat_template=CHAT_TEMPLATE))
    assert tokenizer.render_chat("sky") == "[user] sky [assistant] "
    messages = [{"role": "system", "content": "the"}, {"role": "user", "content": "sky"}]
    assert tokenizer.render_messages(messages) == "[system] the [user] sky [assistant] "


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no tokenizer folder .*absent"):
        load_tokenizer(tmp_path / "absent")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({}, id="empty"),
        pytest.param({"tokenizer.json": "{"}, id="broken"),
        pytest.param({"tokenizer.json": "{}"}, id="no-vocabulary"),
    ],
)
def test_folder_without_readable_tokenizer_is_named(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"cannot read a tokenizer from {tmp_path}"):
        load_tokenizer(tmp_path)


def test_tokenizer_that_never_ends_a_response_is_refused(tmp_path):
    save_word_tokenizer(tmp_path, eos_token=None)
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is not JSON", id="broken"),
        pytest.param("[1]", "must hold a mapping", id="list"),
        pytest.param('{"eos_token_id": "<eos>"}', "eos_token_id must be", id="text"),
        pytest.param('{"eos_token_id": [true]}', "eos_token_id must be", id="boolean"),
    ],
)
def test_unusable_generation_config_is_named(tmp_path, text, message):
    save_word_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"generation_config\.json.*{message}"):
        load_tokenizer(tmp_path)
