"""Pools of SQuAD- and HotpotQA-format files: documents once, evidence known, errors with places."""

import pytest

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.qa_pool import read_hotpot, read_squad
from tests.unit.evaluation.benchmarks.benchmark_files import CITIES, hotpot, save_json, squad


def test_squad_questions_know_their_paragraph_and_article(tmp_path):
    pool = read_squad(save_json(tmp_path / "squad.json", squad()))
    assert len(pool.documents) == 6
    assert [item.question for item in pool.items] == [f"Where is {city}?" for city in CITIES]
    assert (pool.items[4].own, pool.items[4].related) == ((4,), (3, 5))
    assert pool.items[4].evidence == {4}
    assert pool.items[4].answers == ("land of Lima",)


def test_hotpot_questions_know_documents_and_evidence(tmp_path):
    pool = read_hotpot(save_json(tmp_path / "hotpot.json", hotpot()))
    assert pool.documents[0] == "Paris\nParis lies in the land of Paris."
    assert [(item.own, item.evidence) for item in pool.items] == [((0, 1), {0}), ((2, 3), {2})]


def test_shared_document_is_there_once(tmp_path):
    first, second = hotpot()
    second["context"][1] = first["context"][1]
    pool = read_hotpot(save_json(tmp_path / "hotpot.json", [first, second]))
    assert len(pool.documents) == 3
    assert pool.items[1].own == (2, 1)


def test_documents_of_one_title_are_all_in_the_prompt(tmp_path):
    record = hotpot()[0]
    record["context"] = [["Paris", ["One."]], ["Paris", ["Two."]]]
    (item,) = read_hotpot(save_json(tmp_path / "hotpot.json", [record])).items
    assert (item.own, item.evidence) == ((0, 1), {0, 1})


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        pytest.param(read_squad, {}, "squad.json: data must be a list", id="no-data"),
        pytest.param(
            read_squad,
            {"data": [{"paragraphs": [{"context": " "}]}]},
            r"data\[0\].paragraphs\[0\]: context must be a text",
            id="empty-paragraph",
        ),
        pytest.param(read_squad, {"data": []}, "holds no answerable question", id="nothing"),
        pytest.param(read_hotpot, [7], "squad.json:1: a record must be a mapping", id="number"),
        pytest.param(
            read_hotpot,
            [{"question": "q", "answer": "a", "context": [["t", "s"]]}],
            r"squad.json:1: context must hold \[title",
            id="sentences",
        ),
        pytest.param(
            read_hotpot,
            [{"question": "q", "answer": "a", "context": []}],
            "squad.json:1: context holds no document",
            id="no-document",
        ),
    ],
)
def test_wrong_file_is_named_with_the_record(tmp_path, read, content, message):
    with pytest.raises(DataError, match=message):
        read(save_json(tmp_path / "squad.json", content))


def test_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"squad\.json: cannot be read as JSON"):
        read_squad(path)
