"""The policy's tokenizer: text to token ids and back, read from a local Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_longrlvr.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedText:
    """Tokens of a text with the characters that each stands for."""

    token_ids: npt.NDArray[np.int64]
    """[T]"""

    starts: npt.NDArray[np.int64]
    """[T] first character of each token; never falls."""

    ends: npt.NDArray[np.int64]
    """[T] character after each token; never falls."""

    def tokens_of(self, start: int, end: int) -> range:
        """Places of the tokens that overlap ``text[start:end]``; none for an empty piece."""
        if start >= end:
            return range(0)
        first = int(np.searchsorted(self.ends, start, side="right"))
        after = int(np.searchsorted(self.starts, end, side="left"))
        return range(first, max(first, after))

    def count(self, token_id: int | None, places: range) -> int:
        """How often a token occurs at some consecutive places; never, where it is None."""
        if token_id is None:
            return 0
        return int(np.count_nonzero(self.token_ids[places.start : places.stop] == token_id))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenizer:
    """A transformers tokenizer with the few operations that training needs; see `load_tokenizer`.

    No special token is ever added, and none is dropped in decoding but those that end or pad a
    response: tags of the prompt and response formats may be special tokens of a vocabulary.
    """

    backend: Any
    """The ``transformers`` tokenizer; untyped there."""

    stop_ids: frozenset[int]
    """Tokens that end a response: the tokenizer's end of sequence and those that
    ``generation_config.json`` lists. Never empty."""

    pad_id: int
    """Fills places that nothing reads. The smallest of ``stop_ids`` where the tokenizer has none
    of its own."""

    vocab_size: int
    """Added tokens included; a model's embedding may have more rows."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands; special tokens spelled in it are recognised."""
        ids = self.backend.encode(text, add_special_tokens=False)
        return [int(token_id) for token_id in ids]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[EncodedText]:
        """As `encode`, for many texts at once, with the characters of each token.

        Raises:
            ConfigError: The tokenizer does not know where its tokens come from.
        """
        if not self.backend.is_fast:
            raise ConfigError(
                "this tokenizer cannot tell which characters a token stands for; it needs a "
                "tokenizer.json"
            )
        encodings = self.backend.backend_tokenizer.encode_batch(
            list(texts), add_special_tokens=False
        )
        return [_encoded_text(encoding) for encoding in encodings]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a response, without its stop and padding tokens."""
        unread = self.stop_ids | {self.pad_id}
        kept = [int(token_id) for token_id in token_ids if token_id not in unread]
        text = self.backend.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def render_chat(self, text: str) -> str:
        """Wrap a text as one user message that awaits a response.

        Without a chat template the text is returned unchanged.
        """
        return self.render_messages([{"role": "user", "content": text}])

    def render_messages(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write chat messages (``role``, ``content``) as the text that a response continues.

        Without a chat template their contents are joined by blank lines.
        """
        if not self.backend.chat_template:
            return "\n\n".join(message["content"] for message in messages)
        plain = [dict(message) for message in messages]
        text = self.backend.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        return str(text)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder; never asks the hub or runs the folder's code.

    Raises:
        ConfigError: The folder or its tokenizer files are absent or unreadable, or nothing in it
            says which token ends a response.
    """
    # Costs seconds to import, and most of what uses this module's types needs none of it.
    from transformers import AutoTokenizer

    if not path.is_dir():
        raise ConfigError(f"no tokenizer folder {path}: model.path must name an existing folder")
    try:
        backend = AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"cannot read a tokenizer from {path} (tokenizer.json, tokenizer_config.json): {error}"
        ) from error
    stop_ids = _read_stop_ids(path / "generation_config.json")
    if backend.eos_token_id is not None:
        stop_ids |= {int(backend.eos_token_id)}
    if not stop_ids:
        raise ConfigError(
            f"the tokenizer in {path} has no end-of-sequence token: set eos_token in "
            "tokenizer_config.json or eos_token_id in generation_config.json"
        )
    pad_id = backend.pad_token_id
    return Tokenizer(
        backend=backend,
        stop_ids=stop_ids,
        pad_id=min(stop_ids) if pad_id is None else int(pad_id),
        vocab_size=len(backend),
    )


def _encoded_text(encoding: Any) -> EncodedText:  # noqa: ANN401 - the library's Encoding
    ids = np.array(encoding.ids, dtype=np.int64)
    # Much faster than numpy on a list of pairs.
    flat = np.fromiter(chain.from_iterable(encoding.offsets), dtype=np.int64, count=2 * len(ids))
    return EncodedText(token_ids=ids, starts=flat[0::2], ends=flat[1::2])


def _read_stop_ids(path: Path) -> frozenset[int]:
    if not path.is_file():
        return frozenset()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}")
    given = content.get("eos_token_id")
    stop_ids = [] if given is None else given if isinstance(given, list) else [given]
    if not all(type(token_id) is int for token_id in stop_ids):
        raise ConfigError(f"{path}: eos_token_id must be a token id or a list, got {given!r}")
    return frozenset(stop_ids)
