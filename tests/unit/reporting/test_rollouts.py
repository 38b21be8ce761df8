"""Rollouts of a page: which files, whole groups, a document once, what is left is counted."""

import pytest

from megatron_longrlvr.observability.samples import read_samples
from megatron_longrlvr.reporting import rollouts
from megatron_longrlvr.reporting.rollouts import FIELDS, rollout_table, spread_groups
from megatron_longrlvr.reporting.run_record import load_runs
from tests.support.report_runs import write_run
from tests.unit.observability.builders import scored_sample
from tests.unit.reporting.run_dirs import make_run, renamed


def group(name, size=4, **changes):
    return [scored_sample(prompt_id=name, sample_index=index, **changes) for index in range(size)]


def shown(table, *fields):
    return [tuple(row[FIELDS.index(field)] for field in fields) for row in table.rollouts]


def test_everything_is_shown_where_it_fits(tmp_path):
    dirs = [
        make_run(tmp_path / name, samples={1: group("p"), 5: group("q")}, config=renamed(name))
        for name in ("a", "b")
    ]
    table = rollout_table(load_runs(dirs))
    assert shown(table, "run", "step", "sample") == [
        (run, step, index) for run in (0, 1) for step in (1, 5) for index in range(4)
    ]
    assert (table.num_found, table.files_read, table.files_found) == (16, 4, 4)
    # The same two prompts in both runs.
    assert [prompt["id"] for prompt in table.prompts] == ["p", "q"]


def test_kinds_of_files_are_told_apart(tmp_path):
    table = rollout_table(load_runs([write_run(tmp_path / "a", steps=20)]))
    kinds = [kind for (kind,) in shown(table, "kind")]
    # 16 samples at steps 10 and 20; 3 held-out prompts at steps 0, 10 and 20.
    assert (kinds.count("train"), kinds.count("heldout")) == (32, 9)


def test_a_limit_leaves_whole_groups_spread_over_the_files(tmp_path):
    listed = [one for name in "abcdef" for one in group(name)]
    run_dir = make_run(tmp_path / "a", samples={1: group("z"), 2: listed, 3: listed})
    table = rollout_table(load_runs([run_dir]), max_rollouts=20)
    # The file of 4 needs no more; 8 each for the others: two groups.
    assert [step for (step,) in shown(table, "step")] == [1] * 4 + [2] * 8 + [3] * 8
    assert table.num_found == 52
    assert len({table.prompts[place]["id"] for (place,) in shown(table, "prompt")}) == 3


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(9, "aaaabbbb", id="all"),
        pytest.param(8, "aaaabbbb", id="just"),
        pytest.param(7, "aaaa", id="one-group"),
        pytest.param(2, "aa", id="half-a-group"),
        pytest.param(0, "", id="none"),
    ],
)
def test_groups_are_cut_only_where_not_one_fits(tmp_path, count, expected):
    run_dir = make_run(tmp_path / "a", samples={1: [*group("a"), *group("b")]})
    records = read_samples(load_runs([run_dir])[0].sample_files[0])
    assert "".join(one.prompt_id for one in spread_groups(records, count)) == expected


def test_too_many_files_are_read_in_part_with_the_newest_among_them(tmp_path):
    run_dir = make_run(tmp_path / "a", samples={step: group("p") for step in range(1, 8)})
    runs = load_runs([run_dir])
    size = runs[0].sample_files[0].stat().st_size
    table = rollout_table(runs, max_read_bytes=3 * size)
    assert sorted({step for (step,) in shown(table, "step")}) == [1, 4, 7]
    assert (table.files_read, table.files_found) == (3, 7)


def test_long_texts_are_cut_in_the_middle_and_say_so(tmp_path):
    text = "b" * 5000 + "e" * 5000
    scored = scored_sample(text=text, chunks=("c" * 4000, "one"))
    table = rollout_table(load_runs([make_run(tmp_path / "a", samples={1: [scored]})]))
    ((response,),) = shown(table, "text")
    assert response == "b" * 4000 + "\n[... 2000 characters left out ...]\n" + "e" * 4000
    assert "[... 2500 characters left out ...]" in table.prompts[0]["chunks"][0]


def test_beyond_the_budget_documents_keep_what_was_cited_and_what_is_evidence(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(rollouts, "MAX_DOCUMENT_CHARS", 6)
    scored = scored_sample(cited=(3,), evidence=(1,))  # zero, one, two, three
    table = rollout_table(load_runs([make_run(tmp_path / "a", samples={1: [scored]})]))
    # "zero" takes 4 of 6, "one" is evidence, "two" does not fit, "three" is cited.
    assert table.prompts[0]["chunks"] == ["zero", "one", None, "three"]


def test_runs_without_samples_give_none(tmp_path):
    assert rollout_table(load_runs([make_run(tmp_path / "a")])).rollouts == []
