"""Cache of verdicts: found again by what was asked, in a plain SQLite file, by many processes."""

import multiprocessing
import sqlite3

import pytest

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.rewards.judge.cache import VerdictCache
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.stages import Verdict

QUERY = JudgeQuery(question="q", references=("r", "s"), answer="a")
NUM_PROCESSES = 4
NUM_VERDICTS = 50


def open_cache(tmp_path, **changes):
    settings = {"model": "m", "template": "t@1", "votes": 1, **changes}
    return VerdictCache(tmp_path / "run" / "judge.sqlite", **settings)


def test_a_verdict_is_found_by_whoever_opens_the_file_next(tmp_path):
    cache = open_cache(tmp_path)
    assert cache.find(QUERY) is None
    cache.store(QUERY, Verdict.NO)
    cache.close()
    assert open_cache(tmp_path).find(QUERY) is Verdict.NO


@pytest.mark.parametrize("change", [{"model": "n"}, {"template": "t@2"}], ids=str)
def test_another_model_or_template_finds_nothing(tmp_path, change):
    open_cache(tmp_path).store(QUERY, Verdict.YES)
    assert open_cache(tmp_path, **change).find(QUERY) is None


@pytest.mark.parametrize(
    "query",
    [
        JudgeQuery(question="p", references=("r", "s"), answer="a"),
        JudgeQuery(question="q", references=("r",), answer="a"),
        JudgeQuery(question="q", references=("r", "s"), answer="a "),
        # The same text cut elsewhere.
        JudgeQuery(question="q", references=("r", "s", "a"), answer=""),
    ],
    ids=["question", "references", "answer", "cut"],
)
def test_another_query_finds_nothing(tmp_path, query):
    cache = open_cache(tmp_path)
    cache.store(QUERY, Verdict.YES)
    assert cache.find(query) is None


def test_a_verdict_of_fewer_votes_does_not_count_and_is_replaced(tmp_path):
    open_cache(tmp_path).store(QUERY, Verdict.YES)
    three = open_cache(tmp_path, votes=3)
    assert three.find(QUERY) is None
    three.store(QUERY, Verdict.NO)
    assert three.find(QUERY) is Verdict.NO
    one = open_cache(tmp_path)
    one.store(QUERY, Verdict.YES)
    assert one.find(QUERY) is Verdict.NO


def test_any_sqlite_tool_reads_it(tmp_path):
    open_cache(tmp_path).store(
        JudgeQuery(question="q\ud800", references=("r",), answer="a"), Verdict.YES
    )
    columns = "model, template, question, reference_answers, answer, verdict, votes"
    rows = sqlite3.connect(tmp_path / "run" / "judge.sqlite").execute(
        f"select {columns} from verdicts"
    )
    assert list(rows) == [("m", "t@1", "q?", '["r"]', "a", "yes", 1)]


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "judge.sqlite").write_text("not a database, " * 100)
    with pytest.raises(ConfigError, match=r"rewards\.judge\.cache.*judge\.sqlite"):
        open_cache(tmp_path)


def fill(path, rank):
    cache = VerdictCache(path, model="m", template="t", votes=1)
    for index in range(NUM_VERDICTS):
        for answer in (f"shared {index}", f"{rank} {index}"):
            cache.store(JudgeQuery(question="q", references=("r",), answer=answer), Verdict.YES)
    cache.close()


def test_several_processes_write_at_the_same_time_and_nothing_is_lost(tmp_path):
    path = tmp_path / "judge.sqlite"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(path, r)) for r in range(NUM_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * NUM_PROCESSES
    (count,) = sqlite3.connect(path).execute("select count(*) from verdicts").fetchone()
    assert count == NUM_VERDICTS * (NUM_PROCESSES + 1)
