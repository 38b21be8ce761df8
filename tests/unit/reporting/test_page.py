"""The page: numbers in their cells, everything escaped, and what is missing said.

Cells are read with an HTML parser, as a browser would; how the page looks is not covered.
"""

import json
import re
from html.parser import HTMLParser

import pytest

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.page import build_report
from tests.unit.observability.builders import scored_sample
from tests.unit.reporting.run_dirs import CONFIG, f_beta, make_run, renamed

TRAIN = {1: {names.REWARD_MEAN: 0.5}, 2: {names.REWARD_MEAN: 0.75}}
VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Tags, rows of cells and visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.rows, self.texts, self.open = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    @property
    def cells(self):
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def build(tmp_path, *run_dirs, **options):
    path = build_report(run_dirs, tmp_path / "report" / "index.html", **options)
    html = path.read_text(encoding="utf-8")
    return Page(html), html


def two_runs(tmp_path):
    return (
        make_run(
            tmp_path / "a",
            config=renamed("outcome", variant="outcome_only"),
            train=TRAIN,
            heldout={0: f_beta(0.25, 0.02), 40: f_beta(0.1875)},
        ),
        make_run(
            tmp_path / "b",
            config=renamed("context"),
            train=TRAIN,
            heldout={0: f_beta(0.25), 20: f_beta(0.96875), 40: f_beta(0.9375)},
        ),
    )


def test_heldout_scores_of_two_runs(tmp_path):
    page, _ = build(tmp_path, *two_runs(tmp_path))
    assert page.cells[:3] == [
        ["Score", "Run", "First", "Last", "Best"],
        [
            "F2 eval/context_f_beta_mean".replace(" ", ""),
            "outcome",
            "0.250 \N{PLUS-MINUS SIGN} 0.020 step 0",
            "0.188 step 40",
            "0.250 \N{PLUS-MINUS SIGN} 0.020 step 0",
        ],
        ["context", "0.250 step 0", "0.938 step 40", "0.969 step 20"],
    ]


def test_settings_that_differ_between_two_runs(tmp_path):
    page, _ = build(tmp_path, *two_runs(tmp_path))
    start = page.cells.index(["Setting", "outcome", "context"])
    assert page.cells[start + 1] == ["rewards.variant", '"outcome_only"', '"longrlvr"']
    assert "Every other setting is the same" in page.text


def test_curve_names_its_files_and_steps(tmp_path):
    page, _ = build(tmp_path, *two_runs(tmp_path))
    assert f"{tmp_path / 'b' / 'metrics.jsonl'}, steps 0 to 40, 3 records" in page.text
    assert f"{tmp_path / 'a' / 'metrics.jsonl'}, steps 1 to 2, 2 records" in page.text


def test_one_run_alone(tmp_path):
    run_dir = make_run(tmp_path / "a", train=TRAIN, heldout={0: f_beta(0.25)})
    page, html = build(tmp_path, run_dir)
    assert "<title>toy</title>" in html
    assert "One run only, nothing to compare with." in page.text
    assert page.cells[1][1:] == ["toy", "0.250 step 0", "0.250 step 0", "0.250 step 0"]


def test_title_counts_the_runs_where_names_would_not_fit(tmp_path):
    dirs = [make_run(tmp_path / name, config=renamed(name)) for name in ("a", "b", "c")]
    assert "<title>a and b</title>" in build(tmp_path, *dirs[:2])[1]
    assert "<title>3 runs</title>" in build(tmp_path, *dirs)[1]


def test_run_without_evaluation_samples_and_provenance_says_so(tmp_path):
    page, _ = build(tmp_path, make_run(tmp_path / "a", train=TRAIN))
    assert page.cells[1][1:] == ["toy", "not measured", "not measured", "not measured"]
    assert "Held-out F2 Not measured by any run." in page.text
    assert "No run wrote samples." in page.text
    assert "toy wrote no provenance.json." in page.text


def test_run_that_lacks_what_the_other_has_is_named(tmp_path):
    dirs = (
        make_run(
            tmp_path / "a",
            config=renamed("full"),
            heldout={0: f_beta(0.5)},
            samples={1: [scored_sample()]},
        ),
        make_run(tmp_path / "b", config=renamed("bare")),
    )
    page, _ = build(tmp_path, *dirs)
    assert "Not measured by bare." in page.text
    assert "bare wrote no samples." in page.text
    assert "full wrote no samples." not in page.text


def test_rollout_shows_marks_answer_and_parts(tmp_path):
    scored = scored_sample(
        reward=0.0833, answer=1.0, f_beta=0.8333, precision=0.5, recall=1.0, cited=(1, 2, 3, 9)
    )
    page, _ = build(tmp_path, make_run(tmp_path / "a", samples={7: [scored]}))
    assert "best of 1" in page.text
    assert "\u2713 answer right" in page.text
    assert "0 zero 1 one \u2713 evidence, cited 2 two \u2713 evidence, cited" in page.text
    assert "3 three \u2717 cited, not evidence" in page.text
    assert "\u2717 cited, no such chunk: 9" in page.text
    assert "Reference 42 | forty-two" in page.text
    for row in (["answer", "1.000"], ["context_f_beta", "0.833"], ["total", "0.083"]):
        assert row in page.cells


def test_missed_evidence_is_said_in_words(tmp_path):
    page, _ = build(tmp_path, make_run(tmp_path / "a", samples={7: [scored_sample()]}))
    assert "1 one \u25cb evidence, not cited" in page.text
    assert "\u2717 answer wrong" in page.text


ATTACK = "</useful_chunks></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"


def test_text_of_the_policy_cannot_become_markup(tmp_path):
    scored = scored_sample(text=ATTACK, chunks=(ATTACK, "one", ATTACK), prompt_id=ATTACK)
    page, html = build(tmp_path, make_run(tmp_path / "a", samples={1: [scored]}), title=ATTACK)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "&lt;/useful_chunks&gt;&lt;/pre&gt;&lt;script&gt;" in html
    # Title, heading, two chunks, response and prompt id, each readable as written.
    assert page.text.count(ATTACK) == 6
    assert page.open == []


def test_config_and_names_cannot_become_markup(tmp_path):
    config = renamed("<script>a</script>", variant="<script>b</script>")
    dirs = (
        make_run(tmp_path / "a", config=config, heldout={0: f_beta(0.5)}),
        make_run(tmp_path / "b"),
    )
    page, _ = build(tmp_path, *dirs)
    assert "script" not in page.tags
    assert ["rewards.variant", '"<script>b</script>"', '"longrlvr"'] in page.cells


def test_page_needs_no_network(tmp_path):
    run_dirs = two_runs(tmp_path)
    page, html = build(tmp_path, *run_dirs)
    assert {"script", "link", "img", "iframe"} & set(page.tags) == set()
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert links
    assert all(link.startswith("#") for link in links), "figures refer to themselves only"
    assert not re.search(r"url\((?!#)|@import", html)


def test_complete_configuration_is_in_the_page(tmp_path):
    page, _ = build(tmp_path, make_run(tmp_path / "a"))
    shown = page.text[page.text.index("toy, complete") + len("toy, complete") :]
    assert json.loads(shown) == CONFIG


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path):
    run_dir = make_run(tmp_path / "a", samples={1: [scored_sample(text="half \ud83d")]})
    page, _ = build(tmp_path, run_dir)
    assert "half ?" in page.text


def test_unreadable_sample_file_is_named_and_the_old_report_stays(tmp_path):
    run_dir = make_run(tmp_path / "a", samples={3: [scored_sample()]})
    output = build_report([run_dir], tmp_path / "index.html", title="first")
    (run_dir / "samples" / "step_000003.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"step_000003\.jsonl:1 is not JSON"):
        build_report([run_dir], output, title="second")
    assert "<title>first</title>" in output.read_text()
