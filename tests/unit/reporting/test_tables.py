"""Tables: cells by hand, and what was not measured is said."""

import math

import pytest

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.provenance import collect_provenance, write_provenance
from megatron_longrlvr.reporting.run_record import load_runs
from megatron_longrlvr.reporting.tables import (
    MISSING,
    NOT_RECORDED,
    NOT_SET,
    Cell,
    SettingRow,
    describe_run,
    differing_settings,
    f_beta_name,
    flatten,
    provenance_rows,
    score_blocks,
)
from tests.unit.reporting.run_dirs import CONFIG, f_beta, make_run, renamed


def block_of(runs, metric):
    return next(block for block in score_blocks(runs) if block.metric == metric)


def test_first_last_and_best_with_their_steps(tmp_path):
    run_dir = make_run(
        tmp_path / "a",
        heldout={0: f_beta(0.25, 0.0214), 10: f_beta(0.96875), 20: f_beta(0.9, 0.01)},
    )
    (row,) = block_of(load_runs([run_dir]), names.EVAL_CONTEXT_F_BETA_MEAN).rows
    assert row.first == Cell(text="0.250 \N{PLUS-MINUS SIGN} 0.021", step=0)
    assert row.last == Cell(text="0.900 \N{PLUS-MINUS SIGN} 0.010", step=20)
    assert row.best == Cell(text="0.969", step=10)


def test_best_of_equals_is_the_earliest(tmp_path):
    run_dir = make_run(tmp_path / "a", heldout={0: f_beta(0.5), 5: f_beta(0.75), 9: f_beta(0.75)})
    (row,) = block_of(load_runs([run_dir]), names.EVAL_CONTEXT_F_BETA_MEAN).rows
    assert row.best.step == 5


def test_unmeasured_step_is_no_first_and_no_last(tmp_path):
    heldout = {0: f_beta(math.nan), 5: f_beta(0.5), 9: f_beta(math.nan)}
    run_dir = make_run(tmp_path / "a", heldout=heldout)
    (row,) = block_of(load_runs([run_dir]), names.EVAL_CONTEXT_F_BETA_MEAN).rows
    assert row.first == row.last == row.best == Cell(text="0.500", step=5)


def test_score_that_one_run_lacks_is_said_to_be_missing(tmp_path):
    dirs = [make_run(tmp_path / "a", heldout={0: f_beta(0.5)}), make_run(tmp_path / "b")]
    rows = block_of(load_runs(dirs), names.EVAL_CONTEXT_F_BETA_MEAN).rows
    assert [row.last for row in rows] == [Cell(text="0.500", step=0), Cell(text=MISSING, step=None)]


@pytest.mark.parametrize(
    ("betas", "name"),
    [
        pytest.param([2.0, 2.0], "F2", id="shared"),
        pytest.param([0.5], "F0.5", id="fraction"),
        pytest.param([1.0, 2.0], "F-beta", id="different"),
    ],
)
def test_name_of_the_f_score(tmp_path, betas, name):
    dirs = [
        make_run(tmp_path / str(index), config=renamed(str(index), context={"beta": beta}))
        for index, beta in enumerate(betas)
    ]
    assert f_beta_name(load_runs(dirs)) == name


def test_settings_that_differ_are_listed_and_no_others(tmp_path):
    first = make_run(tmp_path / "a", config=renamed("a"))
    second = make_run(tmp_path / "b", config=renamed("b", variant="outcome_only", parser="strict"))
    assert differing_settings(load_runs([first, second])) == [
        SettingRow(key="rewards.parser", values=[NOT_SET, '"strict"']),
        SettingRow(key="rewards.variant", values=['"longrlvr"', '"outcome_only"']),
    ]


def test_flat_settings_keep_empty_sections_and_lists():
    assert dict(flatten({"a": {"b": {}, "c": []}, "d": None})) == {"a.b": {}, "a.c": [], "d": None}


def test_description_says_reward_start_and_progress(tmp_path):
    runs = load_runs(
        [make_run(tmp_path / "a", train={7: {"reward/mean": 1.0}}), make_run(tmp_path / "b")]
    )
    assert [describe_run(run) for run in runs] == [
        "reward longrlvr, start models/start, step 7 of 40",
        "reward longrlvr, start models/start, no metrics logged",
    ]


def test_provenance_beside_a_run_that_recorded_none(tmp_path):
    dirs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", config=CONFIG)]
    start = collect_provenance(gpu_names=["H100", "H100"], command=["longrlvr", "train"])
    write_provenance(start, dirs[0])
    rows = {row.key: row.values for row in provenance_rows(load_runs(dirs))}
    assert rows["steps logged / planned"] == [f"{MISSING} / 40"] * 2
    assert rows["command"] == ["longrlvr train", NOT_RECORDED]
    assert rows["started (UTC)"] == [start.started_utc, NOT_RECORDED]
    assert rows["machine"][0].endswith(" CPUs, 2 x H100")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"git": {}}', id="keys"),
        pytest.param('{"gpu_names": null}', id="null"),
        pytest.param('{"earlier_starts": 3}', id="number"),
    ],
)
def test_provenance_that_no_run_writes_is_named(tmp_path, text):
    run_dir = make_run(tmp_path / "a")
    (run_dir / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"provenance\.json is not what a run writes"):
        provenance_rows(load_runs([run_dir]))


def test_beta_that_is_no_number_is_not_named(tmp_path):
    run_dir = make_run(tmp_path / "a", config={"rewards": {"context": {"beta": "two"}}})
    assert f_beta_name(load_runs([run_dir])) == "F-beta"
