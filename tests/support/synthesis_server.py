"""Language models of a synthesis, scripted: what each would say about ``synthesis_corpus``.

Every model reads the prompt and nothing else. The writer asks for sums of a topic's ledgers, about
passages 1 and 2, then 2 to 4, then 1 and 3. The rater likes topics in the order of ``TOPICS``, and
questions on three passages best. The small and the strong model add up ledgers if they see all of
them; some sums they know without, see ``is_known_to_all`` and the others. Answers are sentences, so
that a judge has to compare them.
"""

from __future__ import annotations

import json
import re

from tests.support.judge_server import JudgeServer, Reply, honest
from tests.support.judges import judge_settings
from tests.support.synthesis_corpus import TOPICS, facts_in, make_document

PICKS = ((1, 2), (2, 3, 4), (1, 3))
_NAME = re.compile(r"\b[a-z]+\d+-\d+\b")


def is_known_to_all(total):
    """Sums that the small model knows without any text."""
    return total % 10 == 7


def is_easy(total):
    """Sums that the small model always gets right with the document; others never."""
    return total % 2 == 0


def is_guessed(total):
    """Sums that the strong model gets right with a ledger missing, but not with none."""
    return total % 10 == 5


def is_beyond(total):
    """Sums that the strong model gets wrong from the evidence."""
    return total % 10 == 3


def form_of(request):
    return request.payload["response_format"]["json_schema"]["name"]


def section(request, name):
    return "\n".join(request._section(name))


def write(request):
    facts = facts_in(section(request, "PASSAGES"))
    number = int(re.search(r"This is request (\d)", request.prompt)[1])
    picked = PICKS[number - 1]
    chosen = [facts[place - 1] for place in picked]
    return {
        "question": f"How many crates do {' and '.join(fact.name for fact in chosen)} record?",
        "answer": str(sum(fact.count for fact in chosen)),
        "evidence": list(picked),
        "explanation": "Each ledger has a count of its own.",
    }


def topic_of(name):
    return TOPICS.index(re.match(r"[a-z]+", name)[0])


def rate(request):
    """Three passages: 6 to 10 for clarity, by the topic, and 10 for the rest; two: 5, 10, 9."""
    names = _NAME.findall(section(request, "QUESTION"))
    is_best = len(names) == max(map(len, PICKS))
    return {
        "clarity": 6 + topic_of(names[0]) if is_best else 5,
        "correctness": 10,
        "evidence": len(section(request, "EVIDENCE").split(", ")) + 7,
    }


def answer(request, counts):
    names = _NAME.findall(section(request, "QUESTION"))
    total = sum(counts[name] for name in names)
    shown = {fact.name for fact in facts_in(request.prompt)}
    missing = [name for name in names if name not in shown]
    if request.payload["model"] == "small":
        is_right = is_easy(total) if not missing else is_known_to_all(total)
    elif missing:
        is_right = len(missing) < len(names) and is_guessed(total)
    else:
        is_right = not is_beyond(total)
    return {"answer": f"They record {total} crates." if is_right else None}


class SynthesisServer(JudgeServer):
    """All models of a synthesis over some documents of the corpus, and the judge."""

    def __init__(self, seeds, before=None):
        """Make the server.

        Args:
            seeds: Of the documents.
            before: Called with each request; a reply that it returns goes out instead.
        """
        super().__init__(self._reply)
        texts = map(make_document, seeds)
        self.counts = {fact.name: fact.count for text in texts for fact in facts_in(text)}
        self.before = before or (lambda request: None)  # noqa: ARG005

    def _reply(self, request):
        early = self.before(request)
        if early is not None:
            return early
        form = form_of(request)
        if form == "verdict":
            return honest(request)
        if form == "answer":
            content = answer(request, self.counts)
        else:
            content = {"question": write, "rating": rate}[form](request)
        return Reply(content=json.dumps(content))


def synthesis_content(run_dir, url, *, documents, tokenizer, **changes):
    """A recipe over the corpus; ``changes`` replace dotted keys, with ``__`` for the dot."""
    judge = judge_settings(url)
    patience = {"endpoints": judge["endpoints"], "retry": judge["retry"]}
    models = {
        name: {"model": name, "max_tokens": 200, "breaker": judge["breaker"], **patience}
        for name in ("writer", "small", "strong")
    }
    content = {
        "kind": "synthesis",
        "run": {"name": "corpus", "dir": str(run_dir), "seed": 3},
        "models": models,
        "read": {"paths": [str(documents)]},
        "clean": {"tokenizer": str(tokenizer), "min_tokens": 2000, "max_tokens": 10_000},
        "chunk": {"max_tokens": 300},
        "embed": {"kind": "tfidf_svd"},
        "generate": {"model": "writer"},
        "score": {"model": "writer"},
        "select": {"min_score": 9.0},
        "answers": {"judge": judge},
        "difficulty": {"model": "small"},
        "evidence": {"model": "strong"},
        "export": {"max_prompt_tokens": 20_000},
    }
    for dotted, value in changes.items():
        section_name, _, key = dotted.rpartition("__")
        (content[section_name] if section_name else content)[key] = value
    return content
