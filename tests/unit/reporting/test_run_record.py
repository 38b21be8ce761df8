"""Reading run directories: the last measurement counts, and a bad file is named."""

import json

import pytest

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.run_record import Point, load_runs
from tests.unit.reporting.run_dirs import CONFIG, f_beta, make_run, renamed


def test_points_come_in_the_order_of_steps(tmp_path):
    make_run(tmp_path / "a", heldout={20: f_beta(0.5), 0: f_beta(0.25)})
    (run,) = load_runs([tmp_path / "a"])
    assert run.points(names.EVAL_CONTEXT_F_BETA_MEAN) == [
        Point(step=0, value=0.25),
        Point(step=20, value=0.5),
    ]
    assert run.last_step == 20


def test_evaluation_repeated_after_a_resume_counts_once(tmp_path):
    run_dir = make_run(tmp_path / "a", heldout={20: f_beta(0.5)})
    with (run_dir / "metrics.jsonl").open("a") as file:
        line = {"step": 20, "kind": "eval", names.EVAL_CONTEXT_F_BETA_MEAN: 0.625}
        file.write(json.dumps(line) + "\n")
    (run,) = load_runs([run_dir])
    assert run.points(names.EVAL_CONTEXT_F_BETA_MEAN) == [Point(step=20, value=0.625)]


def test_runs_of_one_name_are_told_apart_by_directory(tmp_path):
    dirs = [make_run(tmp_path / name) for name in ("a", "b")]
    dirs.append(make_run(tmp_path / "c", config=renamed("other")))
    assert [run.label for run in load_runs(dirs)] == [
        "toy (a)",
        "toy (b)",
        "other",
    ]


def test_runs_of_one_name_in_directories_of_one_name_are_told_apart_by_path(tmp_path):
    dirs = [make_run(tmp_path / parent / "run") for parent in ("a", "b")]
    assert [run.label for run in load_runs(dirs)] == [f"toy ({run_dir})" for run_dir in dirs]


def test_directory_given_twice_is_refused(tmp_path):
    run_dir = make_run(tmp_path / "a")
    with pytest.raises(ValueError, match="given twice"):
        load_runs([run_dir, run_dir])


def test_run_that_died_early_loads_without_measurements(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (run,) = load_runs([tmp_path])
    assert (run.records, run.provenance, run.sample_files, run.last_step) == ([], None, [], None)


def test_no_directory_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one run directory"):
        load_runs([])


def test_directory_without_config_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing, so .* is no run directory"):
        load_runs([tmp_path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("config.json", "{", r"config\.json is not JSON", id="config"),
        pytest.param("config.json", "[]", r"config\.json must hold a JSON object", id="list"),
        pytest.param("config.json", '{"a": NaN}', r"config\.json is not JSON", id="no-number"),
        pytest.param("config.json", "[" * 100_000, r"config\.json is not JSON", id="nested"),
        pytest.param("config.json", '{"run": []}', r"config\.json .* run must be", id="section"),
        pytest.param("provenance.json", "x", r"provenance\.json is not JSON", id="provenance"),
        pytest.param("metrics.jsonl", "{}\n", r"metrics\.jsonl:1 is not a metric", id="metrics"),
    ],
)
def test_unreadable_file_is_named(tmp_path, name, text, message):
    run_dir = make_run(tmp_path / "a")
    (run_dir / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_runs([run_dir])
