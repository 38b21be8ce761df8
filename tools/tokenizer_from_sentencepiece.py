"""Make the fast tokenizer folder of a sentencepiece model, and check that both agree.

    python tools/tokenizer_from_sentencepiece.py tokenizer.model models/mine/tokenizer
    python tools/tokenizer_from_sentencepiece.py tokenizer.model out --add-bos --corpus lines.txt

Both tokenizers encode and decode texts with emoji, CJK, code and leading spaces, and the lines of
--corpus; where they disagree the folder is not written. Needs the sentencepiece package.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_longrlvr.errors import ConfigError


def main() -> None:
    """Convert, or show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="sentencepiece's .model file")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument(
        "--add-bos", action="store_true", help="begin every text with the BOS token"
    )
    parser.add_argument("--corpus", type=Path, help="file whose lines are tried, too")
    parser.add_argument("--dry-run", action="store_true", help="check and write nothing")
    arguments = parser.parse_args()
    # Only here: --help needs no sentencepiece.
    from megatron_longrlvr.conversion.sentencepiece_tokenizer import (
        build_tokenizer,
        find_disagreement,
        save_checked_tokenizer,
        texts_to_try,
    )

    settings = {"adds_bos": arguments.add_bos}
    if arguments.dry_run:
        tokenizer = build_tokenizer(arguments.model, **settings)
        texts = list(texts_to_try(arguments.model, arguments.corpus))
        difference = find_disagreement(arguments.model, tokenizer, texts)
        if difference is not None:
            raise ConfigError(f"the tokenizers disagree on {difference}")
        print(f"{len(tokenizer)} tokens to {arguments.target}; {len(texts)} texts agree")
        return
    tried = save_checked_tokenizer(
        arguments.model, arguments.target, corpus=arguments.corpus, **settings
    )
    print(f"{arguments.target}: sentencepiece and transformers agree on {tried} texts")


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"tokenizer_from_sentencepiece: {error}")
