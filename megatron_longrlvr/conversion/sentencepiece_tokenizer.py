"""A sentencepiece model becomes a fast tokenizer of the Hugging Face kind, which is then tried.

sentencepiece merges, at every step, the neighbours whose joined piece has the best score; the
tokenizers library merges by a ranked list of pairs, which follows from the scores. Spaces become
the piece character U+2581, and one is put before the text where the model says so.

What the tokenizers library cannot express is refused by name, and a tokenizer that disagrees with
sentencepiece on any text that is tried is not written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from megatron_longrlvr.checkpoint.manifest import partial_directory
from megatron_longrlvr.errors import ConfigError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How pieces spell a space."""

TEXTS = (
    "",
    "A plain sentence, with commas; and 1234567890 digits.",
    " one leading space",
    "    four leading spaces, and  two   inside",
    "trailing space ",
    "def f(x):\n\treturn {'a': [x ** 2, -1.5e-3]}  # comment\n\n    if x != 0x1F: pass\n",
    "line one\r\nline two\n\n\nline five",
    "\u5929\u6587\u53f0\u6210\u7acb\u4e8e1894\u5e74\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3068\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
    "emoji \U0001f52d\U0001f680 joined \U0001f469\u200d\U0001f52c flag \U0001f1eb\U0001f1f7 "
    "skin \U0001f44d\U0001f3fd",
    "caf\u00e9 cafe\u0301 na\u00efve \u0141\u00f3d\u017a \ufb01n \uff21\uff22\uff23 \u00bd",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439, \u0627\u0644\u0639\u0631\u0628\u064a\u0629, "
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "a\u00a0no-break space, a \u2581 block, a \u2014 dash, \u201cquotes\u201d",
)
"""What is tried on every tokenizer."""

# Numbers of sentencepiece's protocol: kinds of models, and of pieces.
_UNIGRAM, _BPE = 1, 2
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


def build_tokenizer(model_file: Path, *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Build the fast tokenizer of a ``.model`` file.

    Args:
        model_file: What sentencepiece trained.
        adds_bos: Whether every text is to begin with the model's begin-of-sequence token.

    Raises:
        ConfigError: The file is no sentencepiece model, or one that cannot be expressed.
    """
    proto = _read(model_file)
    _refuse_unsupported(proto, model_file)
    tokenizer = Tokenizer(_model(proto))
    steps = list(_normalizers(proto))
    tokenizer.normalizer = normalizers.Sequence(steps)
    restored = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        restored.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(restored)
    tokenizer.add_tokens(
        [
            AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
            for piece in proto.pieces
            if piece.type in (_CONTROL, _USER_DEFINED)
        ]
    )
    special = _special_tokens(proto)
    if adds_bos:
        if "bos_token" not in special:
            raise ConfigError(f"{model_file} has no begin-of-sequence token to add")
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, proto.trainer_spec.bos_id)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special
    )


def find_disagreement(
    model_file: Path, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]
) -> str | None:
    """First text on which sentencepiece and the tokenizer disagree, described; None if none.

    Both must give the same ids, and the same text back.
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    for text in texts:
        expected = processor.encode(text)
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if found != expected:
            return f"{text!r}: sentencepiece gives {expected}, transformers {found}"
        # The two spell what they do not know differently.
        if processor.unk_id() not in expected:
            ours, theirs = tokenizer.decode(found), processor.decode(expected)
            if ours != theirs:
                return f"{text!r}: sentencepiece gives back {theirs!r}, transformers {ours!r}"
    return None


def texts_to_try(model_file: Path, corpus: Path | None = None) -> Iterator[str]:
    """Texts of all kinds, the model's own symbols within a text, and the lines of a file."""
    yield from TEXTS
    for piece in _read(model_file).pieces:
        if piece.type == _USER_DEFINED:
            yield f"before {piece.piece} after{piece.piece}"
    if corpus is not None:
        yield from corpus.read_text(encoding="utf-8").splitlines()


def save_checked_tokenizer(
    model_file: Path, target: Path, *, adds_bos: bool = False, corpus: Path | None = None
) -> int:
    """Write the tokenizer's folder if it agrees with sentencepiece; returns the texts tried.

    Raises:
        ConfigError: ``target`` exists, the model cannot be expressed, or the two disagree.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; choose another folder or remove it")
    tokenizer = build_tokenizer(model_file, adds_bos=adds_bos)
    texts = list(texts_to_try(model_file, corpus))
    if (difference := find_disagreement(model_file, tokenizer, texts)) is not None:
        raise ConfigError(
            f"{model_file} was not converted: the tokenizers disagree on {difference}"
        )
    partial = partial_directory(target)
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save_pretrained(partial)
    partial.rename(target)
    return len(texts)


def _read(model_file: Path) -> Any:  # noqa: ANN401 - generated by protobuf
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model_file.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{model_file} does not exist") from None
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ConfigError(f"{model_file} is no sentencepiece model: {error}") from error
    if not proto.pieces:
        raise ConfigError(f"{model_file} is no sentencepiece model: it has no pieces")
    return proto


def _refuse_unsupported(proto: Any, model_file: Path) -> None:  # noqa: ANN401
    spec = proto.trainer_spec
    if spec.model_type not in (_UNIGRAM, _BPE):
        kind = type(spec).ModelType.Name(spec.model_type)
        raise ConfigError(f"{model_file} is a {kind} model; only UNIGRAM and BPE are supported")
    if spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise ConfigError(f"{model_file} keeps spaces in another way than before words")
    if unused := [piece.piece for piece in proto.pieces if piece.type == _UNUSED]:
        raise ConfigError(f"{model_file} has unused pieces, {unused[0]!r} among them")


def _model(proto: Any) -> models.Model:  # noqa: ANN401
    spec = proto.trainer_spec
    if spec.model_type == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(scores, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    return models.BPE(
        vocab=ids,
        merges=_merges(proto, ids),
        unk_token=spec.unk_piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _merges(proto: Any, ids: dict[str, int]) -> list[tuple[str, str]]:  # noqa: ANN401
    """Every pair that joins to a piece, best piece first."""
    normal = [piece for piece in proto.pieces if piece.type == type(piece).NORMAL]
    best_first = sorted(normal, key=lambda piece: -piece.score)  # stable: ties stay in order of id
    return [
        (piece.piece[:cut], piece.piece[cut:])
        for piece in best_first
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in ids and piece.piece[cut:] in ids
    ]


def _normalizers(proto: Any) -> Iterator[normalizers.Normalizer]:  # noqa: ANN401
    spec = proto.normalizer_spec
    if spec.precompiled_charsmap:
        yield normalizers.Precompiled(spec.precompiled_charsmap)
    if spec.remove_extra_whitespaces:
        # Before the piece character is put: a text of spaces is empty. sentencepiece counts the
        # character itself, too, as a space.
        yield normalizers.Replace(SPACE, " ")
        yield normalizers.Replace(Regex("^ +| +$"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if spec.add_dummy_prefix:
        yield normalizers.Prepend(SPACE)
    yield normalizers.Replace(" ", SPACE)


def _special_tokens(proto: Any) -> dict[str, str]:  # noqa: ANN401
    spec = proto.trainer_spec
    ids = {"unk_token": spec.unk_id, "bos_token": spec.bos_id, "eos_token": spec.eos_id}
    ids["pad_token"] = spec.pad_id
    return {name: proto.pieces[number].piece for name, number in ids.items() if number >= 0}
