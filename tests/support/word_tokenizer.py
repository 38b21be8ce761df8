"""A tokenizer of a few words, saved as a Hugging Face folder: one token per word."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<eos>", "<unk>", "<turn>", "<CHUNK_0>")
WORDS = ("the", "sky", "is", "blue", "Why?")
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def save_word_tokenizer(
    path: Path,
    *,
    eos_token: str | None = "<eos>",
    pad_token: str | None = "<pad>",
    chat_template: str | None = None,
) -> Path:
    """Write the folder; ids follow SPECIAL, then WORDS; any other word is <unk>."""
    vocabulary = {token: token_id for token_id, token in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=eos_token,
        pad_token=pad_token,
        unk_token="<unk>",
        extra_special_tokens=["<turn>", "<CHUNK_0>"],
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(path)
    return path
