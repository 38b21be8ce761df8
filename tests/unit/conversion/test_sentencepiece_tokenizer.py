"""A converted tokenizer and sentencepiece agree on ids and texts, or nothing is written."""

import io

import pytest
import sentencepiece
from transformers import AutoTokenizer

from megatron_longrlvr.conversion.sentencepiece_tokenizer import (
    SPACE,
    TEXTS,
    build_tokenizer,
    find_disagreement,
    save_checked_tokenizer,
    texts_to_try,
)
from megatron_longrlvr.errors import ConfigError

SENTENCES = [
    *TEXTS[1:],
    *(f"the {size} telescope of the observatory sees {size * 7} stars" for size in range(40)),
    *(f"    for i in range({size}):  print(i, 'star')" for size in range(40)),
]
# As Llama 2's tokenizer was trained, and as sentencepiece trains by default.
LIKE_LLAMA = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "vocab_size": 700,
}
BY_DEFAULT = {"model_type": "unigram", "vocab_size": 330}


@pytest.fixture
def train(tmp_path):
    def run(**settings):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=model,
            hard_vocab_limit=False,
            minloglevel=2,
            num_threads=1,
            **settings,
        )
        path = tmp_path / "tokenizer.model"
        path.write_bytes(model.getvalue())
        return path

    return run


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(LIKE_LLAMA, id="bpe-bytes"),
        pytest.param({**LIKE_LLAMA, "add_dummy_prefix": False}, id="bpe-no-prefix"),
        pytest.param(BY_DEFAULT, id="unigram-nfkc"),
    ],
)
def test_saved_tokenizer_agrees_with_sentencepiece(train, tmp_path, settings):
    model = train(**settings)
    assert save_checked_tokenizer(model, tmp_path / "out") == len(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in [*TEXTS, "unseen words, zebra!", "\U0001f9ec never trained on \u03b1\u03b2"]:
        ids = processor.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        if processor.unk_id() not in ids:
            assert tokenizer.decode(ids) == processor.decode(ids)
    assert len(tokenizer) == processor.vocab_size()


def test_bytes_bring_every_text_back(train):
    tokenizer = build_tokenizer(train(**LIKE_LLAMA))
    for text in TEXTS:
        if SPACE in text:
            continue  # comes back as a space from sentencepiece, too
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_keep_their_ids(train):
    model = train(**LIKE_LLAMA)
    tokenizer = build_tokenizer(model, adds_bos=True)
    # sentencepiece's own numbers: <unk> 0, <s> 1, </s> 2.
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode("the star")
    assert tokenizer("the star")["input_ids"] == [1, *plain]
    assert tokenizer("</s>")["input_ids"] == [1, 2]


def test_disagreement_is_described(train):
    tokenizer = build_tokenizer(train(**LIKE_LLAMA))
    other = train(**LIKE_LLAMA, add_dummy_prefix=False)
    text = find_disagreement(other, tokenizer, ["the telescope"])
    assert text is not None
    assert "'the telescope'" in text


def test_tokenizers_that_disagree_are_not_written(train, tmp_path):
    # A symbol of its own: sentencepiece puts no space after it, a fast tokenizer does.
    model = train(**LIKE_LLAMA, user_defined_symbols=["<sep>"])
    assert any("<sep>" in text for text in texts_to_try(model))
    with pytest.raises(ConfigError, match="disagree on 'before <sep> after<sep>'"):
        save_checked_tokenizer(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


@pytest.mark.parametrize(("kind", "name"), [("word", "WORD"), ("char", "CHAR")])
def test_other_kinds_of_models_are_refused(train, kind, name):
    with pytest.raises(ConfigError, match=name):
        build_tokenizer(train(model_type=kind, vocab_size=100))


def test_spaces_after_words_are_refused(train):
    with pytest.raises(ConfigError, match="spaces"):
        build_tokenizer(train(**LIKE_LLAMA, treat_whitespace_as_suffix=True))


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(ConfigError, match="does not exist"):
        build_tokenizer(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no sentencepiece model"):
        build_tokenizer(path)


def test_lines_of_a_corpus_are_tried(train, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one line\nanother\n")
    tried = save_checked_tokenizer(train(**LIKE_LLAMA), tmp_path / "out", corpus=corpus)
    assert tried == len(TEXTS) + 2


def test_existing_folder_is_left_alone(train, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        save_checked_tokenizer(train(**LIKE_LLAMA), tmp_path / "out")
