"""Write questions about real text, with known evidence, as JSON lines in verl's schema.

    python tools/text_questions.py --tokenizer models/smollm2/hf --output data/text
    python tools/text_questions.py --texts book.txt notes.txt --tokenizer DIR --output data/text

Without --texts the documents come from the Python language reference, which every Python carries
(module pydoc_data.topics, PSF License). Every fourth text is kept for heldout.jsonl and never
stands in train.jsonl. See megatron_longrlvr/data/text_task.py for the two kinds of questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

from megatron_longrlvr.data.text_task import TextTaskSettings, text_records
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import DataError

HELDOUT_EVERY = 4
MAX_PLANTED = 5


def read_texts(paths: list[Path]) -> list[str]:
    """The given files, or the Python language reference by topic."""
    if paths:
        return [path.read_text(encoding="utf-8") for path in paths]
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    parser.add_argument("--tokenizer", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--num-train", type=int, default=512)
    parser.add_argument("--num-heldout", type=int, default=64)
    parser.add_argument("--num-chunks", type=int, default=8, help="per document")
    parser.add_argument("--chunk-tokens", type=int, default=80, help="at most, before planting")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer)
    settings = TextTaskSettings(
        num_chunks=arguments.num_chunks,
        chunk_tokens=arguments.chunk_tokens,
        num_planted=min(arguments.num_chunks, MAX_PLANTED),
    )
    texts = read_texts(arguments.texts)
    parts = {
        "train": ([t for i, t in enumerate(texts) if i % HELDOUT_EVERY], arguments.num_train),
        "heldout": (texts[::HELDOUT_EVERY], arguments.num_heldout),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    for seed, (name, (sources, count)) in enumerate(parts.items(), start=2 * arguments.seed):
        records = text_records(
            sources,
            settings=settings,
            count_tokens=lambda text: len(tokenizer.encode(text)),
            seed=seed,
        )
        path = arguments.output / f"{name}.jsonl"
        try:
            lines = [json.dumps(record) for record in islice(records, count)]
        except DataError as error:
            sys.exit(f"{name}: {error}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path}: {count} questions")


if __name__ == "__main__":
    main()
