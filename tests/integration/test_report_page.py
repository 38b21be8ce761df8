"""The report in a real browser: it shows what was logged, is searched and steered by keys, holds
10,000 rollouts, and nothing that a document or a policy wrote runs or breaks out.

Skipped with a reason where there is no chromium. Expected numbers come from the files of the runs.
"""

from threading import Thread

import pytest

from megatron_longrlvr.observability.metric_log import MetricKind, read_metric_log
from megatron_longrlvr.observability.samples import list_heldout, list_samples, read_samples
from megatron_longrlvr.reporting.page import build_report
from megatron_longrlvr.reporting.watch import WatchRequest, open_server
from tests.support.browser import Visit, open_browser
from tests.support.report_runs import ATTACKS, NUM_CHUNKS, write_run

SECTIONS = (
    *("overview", "learning", "grounding", "signal", "rollouts"),
    *("speed", "health", "data", "metrics", "runs"),
)
# Rows that a list of this height shows, with what is drawn ahead of scrolling.
MAX_ROWS_DRAWN = 60


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / "plain", name="plain"),
        write_run(folder / "attacked", name="attacked", texts=ATTACKS),
    ]


@pytest.fixture(scope="module")
def report(runs):
    return build_report(runs, runs[0].parent / "report.html")


@pytest.fixture
def visit(browser, report):
    opened = Visit(browser, report)
    yield opened
    assert opened.errors == []
    opened.close()


def all_records(runs):
    files = [file for run in runs for file in (*list_samples(run), *list_heldout(run))]
    return [record for file in files for record in read_samples(file)]


def test_every_section_is_drawn_without_a_complaint_and_without_the_network(visit, report):
    for section in SECTIONS:
        visit.show(section)
        assert visit.text(f"#section-{section} h2")
    assert visit.requests == [report.as_uri()] or set(visit.requests) == {report.as_uri(), "data:,"}


def test_nothing_that_was_planted_runs_or_breaks_out(visit):
    page = visit.page
    for section in SECTIONS:
        visit.show(section)
    visit.show("rollouts")
    page.select_option("select[name=run]", "1")
    page.select_option("select[name=kind]", "train")
    shown = visit.text(".detail")
    # As written, not as markup.
    assert "</script><script>window.attacked = 1</script>" in shown
    assert "<img src=x onerror='window.attacked = 2'>" in shown
    assert "{{ 7 * 7 }} ${7 * 7} `" in shown
    # Controls that would reorder or hide text stand there by number; none is left in the text.
    assert "U+202E" in shown
    assert "U+2066" in shown
    assert "U+D83D" in shown
    assert not {"\u202e", "\u2066", "\u2028", "\x00"} & set(page.inner_text("body"))
    assert page.evaluate("window.attacked") is None
    assert page.locator("img, svg, iframe, #page script").count() == 0


def test_a_script_that_gets_into_the_page_is_not_run(browser, report):
    visit = Visit(browser, report)
    visit.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.attacked = 9";
            document.body.append(script);
            const box = document.createElement("div");
            box.innerHTML = "<img src=x onerror='window.attacked = 10'>";
            document.body.append(box);
        }"""
    )
    visit.page.wait_for_timeout(200)
    assert visit.page.evaluate("window.attacked") is None
    assert any("Content Security Policy" in error for error in visit.errors)
    visit.close()


def test_charts_show_the_logged_values(visit, runs):
    page = visit.page
    chart = page.locator("figure.chart", has_text="Training reward").first
    chart.locator("canvas").wait_for()
    box = chart.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    last = read_metric_log(runs[0] / "metrics.jsonl")[-2]
    assert (last.kind, last.step) == (MetricKind.TRAIN, 40)
    assert chart.locator(".where").inner_text() == "step 40"
    shown = chart.locator(".legend .value").first.inner_text()
    assert float(shown) == pytest.approx(last.metrics["reward/mean"], abs=5e-4)


def test_other_axes_and_smoothing(visit):
    page = visit.page
    chart = page.locator("figure.chart", has_text="Training reward").first
    chart.locator("canvas").wait_for()

    def read_at_the_end():
        box = chart.locator(".u-over").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
        return chart.locator(".where").inner_text(), chart.locator(".value").first.inner_text()

    raw = read_at_the_end()[1]
    page.select_option("#axis", "tokens")
    # 40 steps of 4,000 response tokens, of 3 seconds.
    assert read_at_the_end() == ("response tokens 160,000", raw)
    page.select_option("#axis", "hours")
    assert read_at_the_end()[0] == "hours 0.033"
    page.select_option("#smoothing", "0.9")
    assert read_at_the_end()[1] != raw


def said_below(heat):
    return heat.locator("xpath=ancestor::figure").locator(".readout").inner_text().strip()


def test_map_of_positions_reads_out_what_was_logged(visit, runs):
    visit.show("grounding")
    heat = visit.page.locator("canvas.heat").first
    heat.focus()
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowLeft")
    record = next(
        one
        for one in read_metric_log(runs[0] / "metrics.jsonl")
        if (one.kind, one.step) == (MetricKind.TRAIN, 39)
    )
    value = record.metrics["grounding/decile_1_recall_frac"]
    assert said_below(heat) == f"chunks beginning at 10-20 %, step 39: {value:.3f}"


def test_map_of_chunks_marks_the_evidence(visit, runs):
    visit.show("grounding")
    heat = visit.page.locator("figure", has_text="plain").locator("canvas.heat").nth(1)
    records = [
        next(one for one in read_samples(file) if one.prompt_id == "held0")
        for file in list_heldout(runs[0])
    ]
    evidence = records[-1].evidence_chunk_ids[0]
    heat.focus()
    for _ in range(evidence):
        visit.page.keyboard.press("ArrowDown")
    if evidence == 0:
        visit.page.keyboard.press("ArrowUp")
    is_cited = evidence in records[-1].cited_chunk_ids
    assert said_below(heat) == f"chunk {evidence} (evidence), step 40: {int(is_cited)}"


def test_rollouts_are_searched_and_filtered(visit, runs):
    records = all_records(runs)
    page = visit.page
    visit.show("rollouts")

    def count():
        return visit.text("#section-rollouts [role=status]")

    assert count() == f"{len(records)} of {len(records)} rollouts"
    page.select_option("select[name=outcome]", "right_ungrounded")
    fitting = [
        one
        for one in records
        if one.reward_parts["answer"] >= 0.5 and one.reward_parts["context_f_beta"] < 0.8
    ]
    assert fitting
    assert count() == f"{len(fitting)} of {len(records)} rollouts"
    page.select_option("select[name=outcome]", "all")
    page.fill("input[name=text]", "S20P1")
    found = [one for one in records if "s20p1" in one.prompt_id]
    page.get_by_text(f"{len(found)} of {len(records)} rollouts", exact=True).wait_for()


def test_two_steps_of_a_prompt_are_compared(visit):
    page = visit.page
    visit.show("rollouts")
    page.select_option("select[name=run]", "0")
    page.select_option("select[name=kind]", "heldout")
    page.select_option("select[name=step]", "40")
    label = page.locator("select.compare option", has_text="step 0,").first
    page.select_option("select.compare", label.get_attribute("value"))
    difference = page.locator(".comparison-view .diff")
    assert difference.locator("del", has_text="0").count() >= 1
    assert difference.locator("ins", has_text="40").count() >= 1
    assert "I looked at" in difference.inner_text()
    assert page.locator("article .chunks li").count() == NUM_CHUNKS


def test_everything_can_be_reached_by_keys(visit):
    page = visit.page
    for place, section in enumerate(SECTIONS, start=1):
        page.keyboard.press(str(place % 10))
        assert page.locator("nav a[aria-current=page]").get_attribute("data-section") == section
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "text"
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    before = page.locator("[role=option][aria-selected=true]").get_attribute("id")
    page.keyboard.press("j")
    after = page.locator("[role=option][aria-selected=true]").get_attribute("id")
    assert (before, after) == ("row-0", "row-1")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_follows_the_colours_of_the_system(browser, report, scheme):
    visit = Visit(browser, report, color_scheme=scheme)
    red, green, blue = (
        int(part)
        for part in visit.page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1]
        .replace(" ", "")
        .split(",")
    )
    assert (red + green + blue > 3 * 128) == (scheme == "light")
    visit.close()


def test_ten_thousand_rollouts_are_a_list_like_any_other(browser, tmp_path):
    run_dir = write_run(tmp_path / "big", steps=40, rollouts_per_file=2500)
    # 4 files of 2,500 samples, and 5 of 3 held-out ones.
    path = build_report([run_dir], tmp_path / "big.html", max_rollouts=20_000)
    visit = Visit(browser, path)
    page = visit.page
    visit.show("rollouts")
    assert visit.text("#section-rollouts [role=status]") == "10,015 of 10,015 rollouts"
    assert page.locator("[role=option]").count() <= MAX_ROWS_DRAWN
    page.locator("[role=listbox]").focus()
    page.keyboard.press("End")
    assert page.locator("[aria-posinset='10015'][aria-selected=true]").is_visible()
    assert page.locator("[role=option]").count() <= MAX_ROWS_DRAWN
    page.fill("input[name=text]", "step 30 and thought of s30p624.")
    page.get_by_text("4 of 10,015 rollouts", exact=True).wait_for()
    assert visit.errors == []
    visit.close()


def test_a_served_page_takes_in_what_is_logged_meanwhile(browser, tmp_path):
    run_dir = write_run(tmp_path / "live", steps=20)
    server = open_server(WatchRequest(run_dirs=(run_dir,), refresh_s=0.2))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    visit = Visit(browser, server.address)
    assert "step 20 of 40" in visit.text("#section-overview")
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "kind": "train", "reward/mean": 0.5}\n')
    visit.page.locator("#section-overview", has_text="step 21 of 40").wait_for()
    assert visit.errors == []
    visit.close()
    server.shutdown()
    server.server_close()
    thread.join()
