"""A tokenizer with one token a byte, saved as a Hugging Face folder: lengths can be counted."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def save_byte_tokenizer(path: Path) -> Path:
    """Write the folder; it has no chat template and knows every text."""
    symbols = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {symbol: token_id for token_id, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(path)
    return path
