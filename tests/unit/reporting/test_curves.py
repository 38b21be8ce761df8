"""Curves: what is drawn comes from the records, in colours that the page can change.

Positions are read back from the SVG, so that a curve of the wrong run, step or metric shows.
"""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.curves import CURVES, CurveSpec, draw_curve, draw_curves
from megatron_longrlvr.reporting.run_record import load_runs
from tests.unit.reporting.run_dirs import f_beta, make_run, renamed

F_BETA = CurveSpec(metric=names.EVAL_CONTEXT_F_BETA_MEAN, title="Held-out {f_beta}", is_share=True)

# SVG coordinates have six decimals and a figure is 370 points wide.
POSITION_RTOL = 1e-4


def paths_of_run(svg, index):
    """Points of the unbroken lines drawn in a run's colour, in SVG coordinates."""
    drawn = re.findall(
        rf'<path d="([^"]*)"[^>]*style="fill: none;[^"]*stroke: var\(--run-{index},', svg
    )
    lines = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", path) for path in drawn]
    # The legend draws a short line of the same colour, last.
    return [(float(x), float(y)) for line in lines[:1] for x, y in line]


def test_curve_runs_through_the_logged_values(tmp_path):
    run_dir = make_run(tmp_path / "a", heldout={0: f_beta(0.25), 10: f_beta(0.5), 40: f_beta(1.0)})
    (x0, y0), (x1, y1), (x2, y2) = paths_of_run(draw_curve(F_BETA, load_runs([run_dir])).svg, 0)
    # A quarter of the way in steps, a third of the way in value.
    assert math.isclose((x1 - x0) / (x2 - x0), 10 / 40, rel_tol=POSITION_RTOL)
    assert math.isclose((y1 - y0) / (y2 - y0), 0.25 / 0.75, rel_tol=POSITION_RTOL)
    assert y2 < y0, "larger values are higher up, where SVG counts less"


def test_runs_share_the_axes_of_a_figure(tmp_path):
    dirs = [
        make_run(tmp_path / "a", heldout={0: f_beta(0.25), 10: f_beta(0.75)}),
        make_run(tmp_path / "b", heldout={0: f_beta(0.75), 20: f_beta(0.25)}, config=renamed("b")),
    ]
    svg = draw_curve(F_BETA, load_runs(dirs)).svg
    first, second = paths_of_run(svg, 0), paths_of_run(svg, 1)
    assert first[0][0] == second[0][0]
    assert math.isclose(first[1][1], second[0][1], rel_tol=POSITION_RTOL)
    widths = [line[1][0] - line[0][0] for line in (first, second)]
    assert math.isclose(widths[1], 2 * widths[0], rel_tol=POSITION_RTOL)


def test_unmeasured_step_is_a_gap(tmp_path):
    heldout = {0: f_beta(0.5), 1: f_beta(0.5), 2: f_beta(math.nan), 3: f_beta(0.5), 4: f_beta(0.5)}
    curve = draw_curve(F_BETA, load_runs([make_run(tmp_path / "a", heldout=heldout)]))
    drawn = re.search(r'<path d="([^"]*)"[^>]*style="fill: none;[^"]*var\(--run-0', curve.svg)
    assert drawn.group(1).count("M") == 2
    assert curve.sources == [
        f"{tmp_path / 'a' / 'metrics.jsonl'}, steps 0 to 4, 5 records, 1 of them not measured"
    ]


def test_run_without_the_metric_is_named(tmp_path):
    dirs = [
        make_run(tmp_path / "a", heldout={3: f_beta(0.5)}),
        make_run(tmp_path / "b", config=renamed("other")),
    ]
    curve = draw_curve(F_BETA, load_runs(dirs))
    assert curve.title == "Held-out F2"
    assert curve.sources == [f"{tmp_path / 'a' / 'metrics.jsonl'}, steps 3 to 3, 1 record"]
    assert curve.missing == ["other"]


def test_metric_of_no_run_has_no_picture(tmp_path):
    curves = draw_curves(load_runs([make_run(tmp_path / "a")]))
    assert [(curve.svg, curve.sources, curve.missing) for curve in curves] == [
        (None, [], ["toy"])
    ] * len(CURVES)


def test_every_family_is_drawn_under_its_own_metric(tmp_path):
    train = {step: {spec.metric: 0.5 for spec in CURVES} for step in (1, 2)}
    curves = draw_curves(load_runs([make_run(tmp_path / "a", train=train)]))
    assert [curve.metric for curve in curves] == [spec.metric for spec in CURVES]
    assert all(curve.svg is not None for curve in curves)


def test_text_and_lines_take_the_colours_of_the_page(tmp_path):
    svg = draw_curve(F_BETA, load_runs([make_run(tmp_path / "a", heldout={0: f_beta(0.5)})])).svg
    fills = re.findall(r"<text [^>]*fill: ([^;\"]*)", svg)
    assert fills
    assert set(fills) == {"var(--ink, #333333)"}
    assert not re.search(r"#0[a1]0[b2][0-9a-f]{2}", svg), "a placeholder colour is left"


def test_name_of_a_run_is_text_in_the_picture(tmp_path):
    run_dir = make_run(
        tmp_path / "a", heldout={0: f_beta(0.5)}, config=renamed("<script>$x^2$</script>")
    )
    svg = draw_curve(F_BETA, load_runs([run_dir])).svg
    assert "<script" not in svg
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert "<script>$x^2$</script>" in [text.strip() for text in texts]


def test_figures_of_one_page_share_no_id(tmp_path):
    train = {step: {spec.metric: 0.5 for spec in CURVES} for step in (1, 2)}
    curves = draw_curves(load_runs([make_run(tmp_path / "a", train=train)]))
    ids = [name for curve in curves for name in re.findall(r' id="([^"]*)"', curve.svg)]
    assert len(ids) == len(set(ids))


def test_legend_names_every_run_once_in_the_order_given(tmp_path):
    dirs = [
        make_run(tmp_path / name, heldout={0: f_beta(0.5)}, config=renamed(name))
        for name in ("second-seed", "first-seed")
    ]
    svg = draw_curve(F_BETA, load_runs(dirs)).svg
    assert re.findall(r">([^<>]*seed)<", svg) == ["second-seed", "first-seed"]


@pytest.mark.parametrize(
    ("variants", "is_cautioned"),
    [
        pytest.param(("longrlvr", "longrlvr"), False, id="same-reward"),
        pytest.param(("longrlvr", "outcome_only"), True, id="another-reward"),
    ],
)
def test_training_rewards_of_different_formulas_come_with_a_caution(
    tmp_path, variants, is_cautioned
):
    dirs = [
        make_run(tmp_path / str(index), config=renamed(str(index), variant=variant))
        for index, variant in enumerate(variants)
    ]
    cautions = {curve.metric: curve.caution for curve in draw_curves(load_runs(dirs))}
    reward_caution = cautions.pop(names.REWARD_MEAN)
    assert (reward_caution is not None) == is_cautioned
    assert set(cautions.values()) == {None}


def test_drawing_twice_gives_the_same_bytes(tmp_path):
    runs = load_runs([make_run(tmp_path / "a", heldout={0: f_beta(0.5), 2: f_beta(0.75)})])
    assert draw_curve(F_BETA, runs).svg == draw_curve(F_BETA, runs).svg
