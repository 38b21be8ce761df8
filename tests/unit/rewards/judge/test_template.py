"""Prompt template: a versioned file, filled in once, with a code that no two requests share."""

import pytest

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.template import load_template

QUERY = JudgeQuery(question="Who $nonce?", references=("Ada", "A. L."), answer="Ada $question")
GOOD = "version: mine\nsystem: judge\nuser: $nonce $question $references $answer\n"


def write(tmp_path, text):
    path = tmp_path / "template.yaml"
    path.write_text(text)
    return str(path)


def test_the_shipped_template_shows_everything_between_lines_with_its_code():
    system, user = load_template("equivalence-1").messages(QUERY)
    nonce = user["content"].split()[2]
    assert nonce in system["content"]
    assert user["content"].split("\n") == [
        f"BEGIN QUESTION {nonce}",
        "Who $nonce?",
        f"END QUESTION {nonce}",
        "",
        f"BEGIN REFERENCES {nonce}",
        "- Ada",
        "- A. L.",
        f"END REFERENCES {nonce}",
        "",
        f"BEGIN ANSWER {nonce}",
        "| Ada $question",
        f"END ANSWER {nonce}",
        "",
    ]


def test_no_two_requests_share_a_code():
    template = load_template("equivalence-1")
    prompts = {template.messages(QUERY)[1]["content"] for _ in range(20)}
    assert len(prompts) == 20


def test_an_edit_shows_in_the_version_even_under_the_old_name(tmp_path):
    before = load_template(write(tmp_path, GOOD)).version
    after = load_template(write(tmp_path, GOOD.replace("judge", "grade"))).version
    assert before.startswith("mine@")
    assert after.startswith("mine@")
    assert before != after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(GOOD.replace(" $answer", ""), r"lacks \$answer", id="no-answer"),
        pytest.param(GOOD.replace("$nonce ", ""), r"lacks \$nonce", id="no-code"),
        pytest.param(GOOD + "extra: 1\n", "must hold version, system and user", id="part"),
        pytest.param(GOOD.replace("judge", "$chunks"), "chunks", id="unknown-placeholder"),
        pytest.param(GOOD.replace("judge", "costs $5"), "placeholders other", id="bare-dollar"),
        pytest.param("a: b: c", "is not YAML", id="not-yaml"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_template(write(tmp_path, text))


def test_an_unknown_template_comes_with_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"equivalence-2.*equivalence-1"):
        load_template("equivalence-2")
