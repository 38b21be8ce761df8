"""The page as a file: what its data say, and that nothing in them can become markup.

How it looks and behaves is tested in a browser, tests/integration/test_report_page.py.
"""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.page import SCRIPTS, STYLES, build_report
from megatron_longrlvr.reporting.payload import to_script_json
from tests.support.report_runs import ATTACKS
from tests.unit.observability.builders import scored_sample
from tests.unit.reporting.run_dirs import f_beta, make_run, renamed

TRAIN = {1: {names.REWARD_MEAN: 0.5}, 2: {names.REWARD_MEAN: 0.75}}


class Page(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.title, self.inside = [], [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):  # noqa: ARG002
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        if self.inside == "title":
            self.title += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


def build(tmp_path, *run_dirs, **options):
    path = build_report(run_dirs, tmp_path / "report" / "index.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def two_runs(tmp_path):
    return (
        make_run(
            tmp_path / "a",
            config=renamed("outcome", variant="outcome_only"),
            train=TRAIN,
            heldout={0: f_beta(0.25, 0.02), 40: f_beta(0.1875, 0.03)},
        ),
        make_run(
            tmp_path / "b",
            config=renamed("context"),
            train=TRAIN,
            heldout={0: f_beta(0.25), 20: f_beta(0.96875), 40: f_beta(0.9375, 0.04)},
        ),
    )


def test_data_of_two_runs(tmp_path):
    data = build(tmp_path, *two_runs(tmp_path)).data
    assert [run["label"] for run in data["runs"]] == ["outcome", "context"]
    assert data["runs"][1]["metrics"]["eval"]["step"] == [0, 20, 40]
    assert data["settings"] == [
        {"key": "rewards.variant", "values": ['"outcome_only"', '"longrlvr"']}
    ]
    reward = next(chart for chart in data["charts"] if chart["title"] == "Training reward")
    assert reward["caution"].startswith("The runs differ in rewards.variant")
    assert data["f_beta"] == "F2"


def test_last_scores_are_compared_with_their_intervals(tmp_path):
    row = build(tmp_path, *two_runs(tmp_path)).data["comparison"][0]
    assert row["metric"] == names.EVAL_CONTEXT_F_BETA_MEAN
    assert row["values"] == [
        {"value": 0.1875, "half_width": pytest.approx(1.96 * 0.03), "step": 40},
        {"value": 0.9375, "half_width": pytest.approx(1.96 * 0.04), "step": 40},
    ]
    # .03 and .04 are the legs of a right triangle.
    assert row["differences"] == [
        None,
        {"value": 0.75, "half_width": pytest.approx(1.96 * 0.05), "step": 40},
    ]


def test_title_counts_the_runs_where_names_would_not_fit(tmp_path):
    dirs = [make_run(tmp_path / name, config=renamed(name)) for name in ("a", "b", "c")]
    assert build(tmp_path, *dirs[:2]).title == "a and b"
    assert build(tmp_path, *dirs).title == "3 runs"
    assert build(tmp_path, *dirs, title="mine").title == "mine"


def test_whatever_stands_in_the_data_the_page_has_the_same_tags(tmp_path):
    plain = build(tmp_path, make_run(tmp_path / "a", samples={1: [scored_sample()]}))
    attack = "".join(ATTACKS[:-1])
    scored = scored_sample(text=attack, chunks=(attack, *ATTACKS), prompt_id=attack)
    hostile = make_run(tmp_path / "b", samples={1: [scored]}, config=renamed(attack))
    page = build(tmp_path, hostile, title=attack)
    assert page.tags == plain.tags
    assert page.title == attack
    (prompt,) = page.data["table"]["prompts"]
    assert prompt["id"] == attack
    assert prompt["chunks"][2] == ATTACKS[1]


@pytest.mark.parametrize("text", [*ATTACKS, "</ScRiPt >", "\u2029", "&lt;", "]]>"])
def test_json_in_a_script_element_holds_no_markup_and_comes_back(text):
    said = to_script_json({text: [text]})
    assert not set("<>&\u2028\u2029") & set(said)
    assert said.isascii()
    assert json.loads(said) == {text: [text]}


def test_page_needs_no_network_and_runs_no_other_script(tmp_path):
    page = build(tmp_path, *two_runs(tmp_path))
    places = [value for _, given in page.tags for name, value in given.items() if name == "src"]
    assert places == []
    links = [given["href"] for tag, given in page.tags if tag == "link"]
    assert links == ["data:,"]
    policy = next(given["content"] for _, given in page.tags if "http-equiv" in given)
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in page.scripts[1:]
    ]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests


def test_no_script_of_the_page_parses_strings_as_markup(tmp_path):
    own = build(tmp_path, make_run(tmp_path / "a")).scripts[2]
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
    assert [name for name in forbidden if name in own] == []


def test_every_script_and_style_is_in_the_page():
    assets = resources.files("megatron_longrlvr.reporting") / "assets"
    for folder, used in (("js", SCRIPTS), ("css", STYLES)):
        there = {f"{folder}/{file.name}" for file in (assets / folder).iterdir()}
        assert there == {name for name in used if name.startswith(folder)}


def test_no_script_or_style_is_too_long_to_maintain():
    assets = resources.files("megatron_longrlvr.reporting") / "assets"
    own = [name for name in (*SCRIPTS, *STYLES) if not name.startswith("vendor")]
    lengths = {name: len((assets / name).read_text().splitlines()) for name in own}
    assert [name for name, length in lengths.items() if length > 600] == []


def test_secrets_of_configuration_and_environment_are_not_in_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "open-sesame-42")
    config = {**renamed("a"), "judge": {"api_key": "k1", "url": "https://me:pw@host/v1"}}
    scored = scored_sample(text="they told me open-sesame-42")
    path = build_report(
        [make_run(tmp_path / "a", config=config, samples={1: [scored]})], tmp_path / "index.html"
    )
    page = path.read_text()
    assert "open-sesame-42" not in page
    assert "me:pw@" not in page
    assert '"k1"' not in page


def test_audit_is_shown_and_a_wrong_file_is_named(tmp_path):
    run_dir = make_run(tmp_path / "a")
    audit = tmp_path / "audit.json"
    audit.write_text(json.dumps({"counts": {}, "findings": [], "num_rows": 7}))
    assert build(tmp_path, run_dir, audit=audit).data["audit"]["num_rows"] == 7
    audit.write_text("[]")
    with pytest.raises(ValueError, match=r"audit\.json is not what `longrlvr audit"):
        build(tmp_path, run_dir, audit=audit)


def test_half_a_surrogate_pair_comes_back(tmp_path):
    run_dir = make_run(tmp_path / "a", samples={1: [scored_sample(text="half \ud83d")]})
    data = build(tmp_path, run_dir, title="\ud83d").data
    assert "half \ud83d" in data["table"]["rollouts"][0]


def test_unreadable_sample_file_is_named_and_the_old_report_stays(tmp_path):
    run_dir = make_run(tmp_path / "a", samples={3: [scored_sample()]})
    output = build_report([run_dir], tmp_path / "index.html", title="first")
    (run_dir / "samples" / "step_000003.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"step_000003\.jsonl:1 is not JSON"):
        build_report([run_dir], output, title="second")
    assert "<title>first</title>" in output.read_text()
