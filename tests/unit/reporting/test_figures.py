"""PNG export: a file for what was measured, with the values of the right run and step."""

import math

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.charts import CHARTS, Chart
from megatron_longrlvr.reporting.figures import draw_chart, draw_positions, write_figures
from megatron_longrlvr.reporting.run_record import load_runs
from tests.unit.reporting.run_dirs import f_beta, make_run, renamed

F_BETA = Chart(
    section="overview",
    title="Held-out {f_beta}",
    metrics=[(names.EVAL_CONTEXT_F_BETA_MEAN, "")],
    is_share=True,
)


def test_lines_run_through_the_logged_values(tmp_path):
    dirs = [
        make_run(tmp_path / "a", heldout={0: f_beta(0.25), 10: f_beta(math.nan)}),
        make_run(tmp_path / "b", heldout={20: f_beta(0.75)}, config=renamed("$b$")),
    ]
    (axes,) = draw_chart(F_BETA, load_runs(dirs)).axes
    first, second = axes.lines
    assert (list(first.get_xdata()), first.get_ydata()[0]) == ([0, 10], 0.25)
    assert math.isnan(first.get_ydata()[1])
    assert (list(second.get_xdata()), list(second.get_ydata())) == ([20], [0.75])
    assert [line.get_label() for line in axes.lines] == ["toy", "$b$"]
    assert first.get_color() != second.get_color()
    assert axes.get_title(loc="left") == "Held-out F2"


def test_positions_are_a_grid_of_tenths_by_steps(tmp_path):
    train = {
        step: {names.grounding_by_decile(tenth, "recall"): tenth / 10 for tenth in (0, 9)}
        for step in (1, 2)
    }
    (run,) = load_runs([make_run(tmp_path / "a", train=train)])
    grid = draw_positions(run).axes[0].images[0].get_array()
    assert grid.shape == (10, 2)
    assert list(grid[9]) == [0.9, 0.9]
    assert grid.mask[5].all(), "not measured"


def test_a_file_for_each_measured_chart_and_no_other(tmp_path):
    run_dir = make_run(tmp_path / "a", heldout={0: f_beta(0.5)}, train={1: {"update/lr": 0.1}})
    paths = write_figures(load_runs([run_dir]), tmp_path / "png")
    assert [path.name for path in paths] == [
        "overview_held_out_f.png",
        "learning_learning_rate.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    again = write_figures(load_runs([run_dir]), tmp_path / "again")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_every_chart_has_a_file_name_of_its_own():
    assert len({(chart.section, chart.slug) for chart in CHARTS}) == len(CHARTS)
