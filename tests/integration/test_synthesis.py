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
from tests.support.judge_server import Reply
from tests.support.moments import Moment, die_at
from tests.support.spawn import run_distributed
from tests.support.synthesis_corpus import facts_in, make_document
from tests.support.synthesis_server import (
    SynthesisServer,
    form_of,
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


def about(request, seed):
    """Whether a request shows or asks about a document of the corpus."""
    return re.search(rf"\b[a-z]+{seed}-\d", request.prompt) is not None


def cut_off(text):
    message = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return Reply(body=json.dumps({"choices": [message]}).encode())


def question_with(**changes):
    content = {"question": "Who?", "answer": "Ada", "evidence": [1, 2], "explanation": "Both."}
    return Reply(content=json.dumps({**content, **changes}))


BAD_QUESTIONS = [
    pytest.param(Reply(content="Question: who?"), "wrong_grammar", "JSON", id="prose"),
    pytest.param(question_with(rating=9), "wrong_grammar", "keys", id="further-key"),
    pytest.param(question_with(evidence=["1", "2"]), "wrong_grammar", "whole", id="text-numbers"),
    pytest.param(question_with(evidence=[1, 6]), "wrong_content", "not among", id="not-shown"),
    pytest.param(question_with(evidence=[2, 2]), "wrong_content", "twice", id="twice"),
    pytest.param(question_with(evidence=[3]), "wrong_content", "min_evidence", id="one-chunk"),
    pytest.param(question_with(answer=" "), "wrong_content", "answer is empty", id="no-answer"),
    pytest.param(question_with(answer="x " * 41), "wrong_content", "40 words", id="long-answer"),
    pytest.param(
        question_with(question="What does passage 2 say?"),
        "wrong_content",
        "passages",
        id="passage",
    ),
    pytest.param(cut_off('{"question": "Wh'), "cut", "max_tokens=200", id="cut"),
    pytest.param(Reply(status=400, content="too long"), "refused", "status 400", id="refused"),
]


@pytest.mark.parametrize(("reply", "fault", "detail"), BAD_QUESTIONS)
def test_a_question_that_cannot_be_used_is_quarantined_with_its_words(
    tmp_path, straight, recipe, reply, fault, detail
):
    """The writer is at fault about one document; all others go on as if nothing had happened."""

    def before(request):
        is_asked = form_of(request) == "question" and about(request, SEEDS[1])
        return reply if is_asked else None

    with SynthesisServer(SEEDS, before) as server:
        path = recipe(tmp_path / "run", server.url)
        assert main(["data", "run", path, "--until", "generate"]) == 0
    lost = quarantined(tmp_path / "run", "generate")
    assert len(lost) == 12
    attempts = [attempt for one in lost for attempt in one["attempts"]]
    assert {attempt["fault"] for attempt in attempts} == {fault}
    assert all(detail in attempt["detail"] for attempt in attempts)
    if fault == "refused":
        # It would be refused again, and the server is well.
        bad = [one for one in server.requests if about(one, SEEDS[1])]
        assert len(bad) == len(attempts) == 12
    else:
        assert {attempt["raw"] for attempt in attempts} == {reply.content or '{"question": "Wh'}
        assert len(attempts) == 3 * 12
    others = [row for row in rows(straight[0], "generate") if row["document_index"] != 1]
    assert rows(tmp_path / "run", "generate") == others


def test_a_rating_is_read_strictly_and_asked_for_again(tmp_path, straight, recipe):
    """First replies about a document are no ratings; the second ones are."""
    bad = ('{"clarity": 11, "correctness": 9, "evidence": 9}', "9/10", "Rating: 9", "[[9]]")
    seen = Counter()

    def before(request):
        if form_of(request) != "rating" or not about(request, SEEDS[0]):
            return None
        seen[request.prompt] += 1
        is_first = seen[request.prompt] == 1
        return Reply(content=bad[len(seen) % len(bad)]) if is_first else None

    with SynthesisServer(SEEDS, before) as server:
        path = recipe(tmp_path / "run", server.url)
        assert main(["data", "run", path, "--until", "score"]) == 0
    assert set(seen.values()) == {2}
    assert rows(tmp_path / "run", "score") == rows(straight[0], "score")
    assert quarantined(tmp_path / "run", "score") == []


def test_without_replies_a_stage_stops_and_the_next_start_asks_for_what_is_missing(
    tmp_path, straight, recipe, capsys
):
    is_down = {"now": True}

    def before(request):
        is_asked = form_of(request) == "rating" and about(request, SEEDS[0])
        return Reply(status=503) if is_asked and is_down["now"] else None

    with SynthesisServer(SEEDS, before) as server:
        path = recipe(tmp_path / "run", server.url)
        content = yaml.safe_load((tmp_path / "run.yaml").read_text())
        content["models"]["writer"]["breaker"] = {"failures": 10_000}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
        assert main(["data", "run", path]) == 75
        assert "1 items have no reply yet" in capsys.readouterr().err
        num_asked = sum(form_of(one) == "rating" for one in server.requests)
        is_down["now"] = False
        assert main(["data", "run", path]) == 0
        asked_again = sum(form_of(one) == "rating" for one in server.requests) - num_asked
    assert asked_again == 12
    assert {name: data for name, data in files(tmp_path / "run").items() if "rows" in name} == {
        name: data for name, data in files(straight[0]).items() if "rows" in name
    }


def test_a_server_that_does_not_know_the_key_ends_the_command(tmp_path, recipe, capsys):
    with SynthesisServer(SEEDS, lambda request: Reply(status=401)) as server:  # noqa: ARG005
        assert main(["data", "run", recipe(tmp_path / "run", server.url)]) == 2
    assert "models.writer: the server refuses with status 401" in capsys.readouterr().err


def test_a_changed_setting_makes_again_what_depends_on_it_and_asks_nothing_known(
    tmp_path, straight, recipe
):
    with SynthesisServer(SEEDS) as server:
        path = recipe(tmp_path / "run", server.url)
        assert main(["data", "run", path]) == 0
        del server.requests[:]
        assert main(["data", "run", path, "select.min_score=9.8"]) in {0, 1}
        assert {form_of(one) for one in server.requests} <= {"answer", "verdict"}
        # What is selected now was selected before, so its answers are known as well.
        assert server.requests == []
        assert {row["score"] for row in rows(tmp_path / "run", "select")} == {10.0}
        assert main(["data", "run", path]) == 0
        assert server.requests == []
    assert files(tmp_path / "run") == files(straight[0])


def test_shards_put_together_are_what_one_machine_makes(tmp_path, straight, recipe, capsys):
    run_dir = tmp_path / "run"
    with SynthesisServer(SEEDS) as server:
        path = recipe(run_dir, server.url)
        assert main(["data", "run", path, "--shard", "0/3"]) == 2
        assert "reads dedup, which is not done" in capsys.readouterr().err
        assert main(["data", "run", path, "--until", "dedup"]) == 0
        for shard in ("0/3", "2/3"):
            assert main(["data", "run", path, "--shard", shard]) == 0
        assert main(["data", "merge", path, "--shards", "3"]) == 2
        assert "--shard 1/3" in capsys.readouterr().err
        assert main(["data", "run", path, "--shard", "1/3"]) == 0
        assert main(["data", "merge", path, "--shards", "3"]) == 0
        num_requests = len(server.requests)
        assert main(["data", "run", path]) == 0
    assert num_requests == len(server.requests) == straight[1]
    expected = {name: data for name, data in files(straight[0]).items() if "rows" in name}
    assert {name: data for name, data in files(run_dir).items() if "rows" in name} == expected
    for stage in ("cluster", "difficulty", "evidence"):
        assert sorted(dropped(run_dir, stage)) == sorted(dropped(straight[0], stage))


MOMENTS = [
    Moment("data.synthesis.folder", "StageWriter.add", 3),  # read
    Moment("data.synthesis.kept", "KeptResults.store", 7),  # clean
    Moment("data.synthesis.folder", "write_atomically"),  # dedup: rows there, no manifest
    Moment("data.synthesis.kept", "KeptResults.store", 50),  # generate
    Moment("data.synthesis.folder", "StageWriter.finish"),  # generate
    Moment("data.synthesis.language_model", "_understand", 130),  # score
    Moment("data.synthesis.answers", "AnswerChecker.is_right", 20),  # difficulty
]


def run(rank, world_size, arguments, moment):  # noqa: ARG001
    if moment is not None:
        die_at(moment, 0.0)
    return main(arguments)


def how_it_ends(arguments, moment):
    try:
        return str(run_distributed(run, 1, arguments, moment))
    except AssertionError as error:
        return str(error)


def test_killed_at_any_moment_a_synthesis_ends_as_if_it_had_not_been(tmp_path, straight, recipe):
    run_dir = tmp_path / "run"
    with SynthesisServer(SEEDS) as server:
        arguments = ["data", "run", recipe(run_dir, server.url)]
        for moment in MOMENTS:
            assert "died with exit code -9" in how_it_ends(arguments, moment), str(moment)
        assert run_distributed(run, 1, arguments, None) == [0]
    assert files(run_dir) == files(straight[0])
    # Replies that were under way when the process died are asked for again, at most 16 each time.
    assert straight[1] <= len(server.requests) <= straight[1] + 16 * len(MOMENTS)
