"""Questions about real text whose evidence is known by construction, in verl's schema.

Two kinds, both with one right answer and evidence that nobody had to annotate:

    planted  sentences such as "The crate marked heron weighs 417 kilograms." stand at the start of
             some chunks; the question asks for the weights of some of those crates
    cloze    the question quotes a sentence of the document with one word left out, a word that the
             document holds nowhere else

Documents are cut out of the given texts.

Not a benchmark: a model that finds a crate reads its number off the same chunk. It shows that a run
works on real text, and how well a policy finds things in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.data.chunking import split_into_chunks
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.errors import DataError

INSTRUCTION = """\
Answer the question about the document. First list the chunks that hold the answer, then answer \
in a few words."""

NAMES = (
    *("heron", "otter", "badger", "falcon", "lynx", "marmot", "puffin", "raven", "salmon"),
    *("acorn", "birch", "cedar", "fennel", "hazel", "juniper", "laurel", "maple", "nettle"),
    *("tapir", "viper", "walrus", "poplar", "sorrel", "willow"),
)

_SENTENCE = re.compile(r"[A-Z][^.!?\n]{40,160}\.")
_RARE_WORD = re.compile(r"\b[a-z]{7,}\b")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTaskSettings:
    """Size of the documents and questions."""

    num_chunks: int = 8
    chunk_tokens: int = 80
    num_evidence: int = 2
    """Crates that a planted question asks for."""

    num_planted: int = 5
    """Crates in a document, asked for or not."""

    def __post_init__(self) -> None:
        if not self.num_evidence <= self.num_planted <= self.num_chunks:
            raise ValueError(
                f"num_evidence={self.num_evidence}, num_planted={self.num_planted} and "
                f"num_chunks={self.num_chunks} must not descend"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    chunks: list[str]
    text: str
    answer: str
    evidence: list[int]


def text_records(
    texts: Sequence[str],
    *,
    settings: TextTaskSettings,
    count_tokens: Callable[[str], int],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Endless records in verl's schema, planted and cloze questions in turn.

    Args:
        texts: Sources of documents; those too short for one are passed over.
        settings: Sizes.
        count_tokens: Tokens of a text.
        seed: The same seed and texts give the same records.

    Raises:
        DataError: No text is long enough for a document.
    """
    documents = [
        document for text in texts for document in _documents(text, settings, count_tokens)
    ]
    if not documents:
        raise DataError(
            f"no text holds {settings.num_chunks} chunks of {settings.chunk_tokens} tokens"
        )
    draw = random.Random(seed)
    index = 0
    while True:
        document = draw.choice(documents)
        is_cloze = index % 2 == 1
        question = _cloze(draw, document) if is_cloze else _planted(draw, document, settings)
        if question is None:
            question = _planted(draw, document, settings)
        yield _record(question, index=index)
        index += 1


def _documents(
    text: str, settings: TextTaskSettings, count_tokens: Callable[[str], int]
) -> list[list[str]]:
    """Runs of chunks that make up one document each."""
    chunks = split_into_chunks(text, max_tokens=settings.chunk_tokens, count_tokens=count_tokens)
    texts = [text[chunk.start_char : chunk.end_char].strip() for chunk in chunks]
    texts = [text for text in texts if text and "<" not in text]
    size = settings.num_chunks
    return [texts[start : start + size] for start in range(0, len(texts) - size + 1, size)]


def _planted(draw: random.Random, document: Sequence[str], settings: TextTaskSettings) -> _Question:
    chunks = list(document)
    places = draw.sample(range(len(chunks)), settings.num_planted)
    names = draw.sample(NAMES, settings.num_planted)
    weights = draw.sample(range(100, 1000), settings.num_planted)
    for place, name, weight in zip(places, names, weights, strict=True):
        chunks[place] = f"The crate marked {name} weighs {weight} kilograms. {chunks[place]}"
    asked = settings.num_evidence
    wanted = " and ".join(names[:asked])
    noun, verb = ("crate", "does") if asked == 1 else ("crates", "do")
    return _Question(
        chunks=chunks,
        text=f"How many kilograms {verb} the {noun} marked {wanted} weigh?",
        answer=" and ".join(map(str, weights[:asked])),
        evidence=sorted(places[:asked]),
    )


def _cloze(draw: random.Random, document: Sequence[str]) -> _Question | None:
    """None where the document has no sentence with a word of its own."""
    whole = " ".join(document).lower()
    found = []
    for place, chunk in enumerate(document):
        for sentence in _SENTENCE.findall(chunk):
            for word in _RARE_WORD.findall(sentence):
                if len(re.findall(rf"\b{word}\b", whole)) == 1:
                    found.append((place, sentence, word))
    if not found:
        return None
    place, sentence, word = draw.choice(found)
    gap = re.sub(rf"\b{word}\b", "____", sentence)
    return _Question(
        chunks=list(document),
        text=f"Which word is left out of this sentence of the document? {_SPACES.sub(' ', gap)}",
        answer=word,
        evidence=[place],
    )


def _record(question: _Question, *, index: int) -> dict[str, Any]:
    return {
        "data_source": "text_task",
        "prompt": [{"role": "user", "content": _prompt(question)}],
        "reward_model": {"ground_truth": question.answer},
        "extra_info": {
            "index": index,
            "question": question.text,
            "ref_chunks": question.evidence,
        },
    }


def _prompt(question: _Question) -> str:
    return render_prompt(chunks=question.chunks, question=question.text, instruction=INSTRUCTION)
