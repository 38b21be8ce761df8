"""Word-level tokenizer of the toy task: every word and every tag is one token.

White space separates and is not kept: decoding joins tokens with single blanks.
"""

from __future__ import annotations

from pathlib import Path

from megatron_longrlvr.data.response_format import ANSWER_TAG, CITATION_TAG
from megatron_longrlvr.data.toy_task import GIFTS, PEOPLE

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
MAX_CHUNKS = 64

_TOKEN = r"<[^<>\s]+>|[^<\s]+"
"""A tag, or what stands between tags and white space."""


def toy_vocabulary() -> tuple[str, ...]:
    """All tokens; the place is the token id."""
    tags = [f"<{slash}{tag}>" for tag in (CITATION_TAG, ANSWER_TAG) for slash in ("", "/")]
    chunk_tags = [f"<{slash}CHUNK_{i}>" for slash in ("", "/") for i in range(MAX_CHUNKS)]
    return (PAD, UNKNOWN, END, "Document:", "Question:", *tags, *chunk_tags, *PEOPLE, *GIFTS)


def write_toy_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, as transformers reads them."""
    # Seconds to import; whoever only looks at the vocabulary does without.
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: token_id for token_id, token in enumerate(toy_vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    # "removed" with invert: what matches stays as a token, what lies between is dropped.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="removed", invert=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
