"""Synthesis from documents to the training file, against scripted models whose facts are known.

Promise: of each planted document comes the question that the rules make of it, with document-wide
evidence, or the reason why none does; whatever a model writes wrongly is quarantined with its
words; killed, cut into shards or asked in another order, a synthesis ends with the same bytes, and
no reply that was kept is asked for again. Not covered: real models.
"""

import csv
import json
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest
import yaml

from megatron_longrlvr.cli import main
from megatron_longrlvr.data.dataset import load_prompts
from megatron_longrlvr.data.prompt_format import parse_prompt
from megatron_longrlvr.data.tokenizer import load_tokenizer
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.support.synthesis_corpus import facts_in, make_document
from tests.support.synthesis_server import (
    SynthesisServer,
    is_beyond,
    is_easy,
    is_guessed,
    is_known_to_all,
    synthesis_content,
)

# Between them, their questions meet every fate.
SEEDS = (10, 11, 12, 13, 16, 19, 24, 25, 29, 35)
FILES = ("rows.parquet", "dropped.csv", "quarantine.jsonl", "manifest.json")
GERMAN = "Der Fluss entspringt in den Bergen und fliesst an der alten Stadt vorbei zum Meer. " * 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Documents of the corpus, and some that do not get past cleaning."""
    folder = tmp_path_factory.mktemp("documents")
    for seed in SEEDS:
        (folder / f"{seed}.txt").write_text(make_document(seed))
    (folder / "copy.txt").write_text(make_document(10) + "\n\n")
    (folder / "edited.txt").write_text(make_document(11).replace("Ledger", "Volume", 1))
    (folder / "german.txt").write_text(GERMAN)
    (folder / "short.txt").write_text(
        "The river rises in the mountains and flows past the old town."
    )
    (folder / "broken.txt").write_bytes(b"\xff" * 3000)
    (folder / "data.bin").write_bytes(b"\x00")
    return folder


@pytest.fixture(scope="module")
def recipe(documents, tokenizer):
    """Writes a recipe for a run directory and a server."""

    def write(run_dir, url, **changes):
        content = synthesis_content(
            run_dir, url, documents=documents, tokenizer=tokenizer, **changes
        )
        content["clean"]["languages"] = ["en", "la", "it", "es", "pt", "mt", "eo", "ro", "sl", "hr"]
        path = run_dir.parent / f"{run_dir.name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.fixture(scope="module")
def straight(tmp_path_factory, recipe):
    """A run without a stop; with the number of its requests."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    with SynthesisServer(SEEDS) as server:
        assert main(["data", "run", recipe(run_dir, server.url)]) == 0
    return run_dir, len(server.requests)


def rows(run_dir, stage):
    (path,) = run_dir.glob(f"*-{stage}/rows.parquet")
    return pq.read_table(path).to_pylist()


def dropped(run_dir, stage):
    (path,) = run_dir.glob(f"*-{stage}/dropped.csv")
    with path.open(newline="") as file:
        return [(row["item"], row["reason"]) for row in csv.DictReader(file)]


def quarantined(run_dir, stage):
    (path,) = run_dir.glob(f"*-{stage}/quarantine.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(run_dir):
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for name in FILES
        for path in sorted(run_dir.glob(f"*-*/{name}"))
    }


def fate(total):
    """What becomes of the question whose answer this is; None for one that is kept."""
    if is_known_to_all(total):
        return "too_easy_closed_book"
    if is_easy(total):
        return "too_easy_with_document"
    if is_beyond(total):
        return "not_answered_from_evidence"
    return "evidence_not_needed" if is_guessed(total) else None


def test_of_each_document_comes_what_the_rules_make_of_it(straight):
    """Paragraph n of topic t is chunk 5 n + t. The best drawn topic's second question is chosen.

    It is about the topic's paragraphs 1, 2 and 3 (its passages 2, 3 and 4).
    """
    run_dir, _ = straight
    drawn = {}
    for row in rows(run_dir, "cluster"):
        drawn.setdefault(row["document_id"], []).append(row["chunk_ids"])
    kept, lost = [], Counter()
    for document in rows(run_dir, "dedup"):
        topic = max(chunk_ids[0] for chunk_ids in drawn[document["document_id"]])
        chunk_ids = [5 * number + topic for number in (1, 2, 3)]
        facts = [facts_in(document["text"])[chunk_id] for chunk_id in chunk_ids]
        total = sum(fact.count for fact in facts)
        # Of the clarity that the rater gives, only the two best topics reach a mean of 9.
        lost[fate(total)] += 1
        if fate(total) is None:
            names = " and ".join(fact.name for fact in facts)
            question = f"How many crates do {names} record?"
            kept.append((document["document_id"], question, str(total), chunk_ids))
    exported = [
        (
            row["extra_info"]["index"],
            row["extra_info"]["question"],
            row["reward_model"]["ground_truth"],
            row["extra_info"]["ref_chunks"],
        )
        for row in rows(run_dir, "export")
    ]
    assert exported == kept
    reasons = Counter(
        reason for stage in ("difficulty", "evidence") for _, reason in dropped(run_dir, stage)
    )
    assert reasons == {reason: count for reason, count in lost.items() if reason is not None}
    # The corpus has something of every kind, or this would show little.
    assert set(lost) == {None, *(fate(total) for total in (7, 2, 3, 5))}


def test_documents_that_are_not_used_are_dropped_with_the_reason(straight, documents):
    run_dir, _ = straight
    found = {
        item.removeprefix(f"{documents}/"): reason
        for stage in ("read", "clean", "dedup")
        for item, reason in dropped(run_dir, stage)
    }
    assert found == {
        "data.bin": "unknown_kind",
        "broken.txt": "unreadable",
        "german.txt": "other_language",
        "short.txt": "too_short",
        "copy.txt": "duplicate",
        "edited.txt": "near_duplicate",
    }


def test_training_reads_the_file_and_finds_the_evidence_in_it(straight, tokenizer):
    run_dir, _ = straight
    (path,) = run_dir.glob("*-export/rows.parquet")
    loaded = load_prompts(
        [path], tokenizer=load_tokenizer(tokenizer), max_prompt_tokens=20_000, overlong="refuse"
    )
    texts = {row["document_id"]: row["text"] for row in rows(run_dir, "dedup")}
    exported = rows(run_dir, "export")
    assert len(loaded.prompts) == len(exported) > 0
    for prompt, row in zip(loaded.prompts, exported, strict=True):
        assert prompt.evidence_chunk_ids == frozenset(row["extra_info"]["ref_chunks"])
        shown = parse_prompt(row["prompt"][0]["content"])
        assert "".join(shown.chunks) == texts[row["extra_info"]["document_id"]]
        asked = re.findall(r"[a-z]+\d+-\d+", prompt.question)
        cited = [prompt.chunks[chunk_id] for chunk_id in sorted(prompt.evidence_chunk_ids)]
        assert [fact.name for text in cited for fact in facts_in(text)] == asked
    audit = json.loads((run_dir / "audit.json").read_text())
    assert audit["num_rows"] == len(exported)


def test_two_runs_give_the_same_bytes_and_a_finished_one_asks_nothing(
    tmp_path, straight, recipe, capsys
):
    with SynthesisServer(SEEDS) as server:
        one_by_one = [{"url": server.url, "max_concurrent": 1}]
        run_dir = tmp_path / "again"
        path = recipe(run_dir, server.url)
        content = yaml.safe_load((tmp_path / "again.yaml").read_text())
        for model in content["models"].values():
            model["endpoints"] = one_by_one
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(content))
        assert main(["data", "run", path]) == 0
        assert files(run_dir) == files(straight[0])
        num_requests = len(server.requests)
        assert main(["data", "run", path]) == 0
        assert len(server.requests) == num_requests
        assert main(["data", "run", path, "--dry-run"]) == 0
        assert main(["data", "status", path]) == 0
        assert len(server.requests) == num_requests
    assert "too_easy_with_document" in capsys.readouterr().out
