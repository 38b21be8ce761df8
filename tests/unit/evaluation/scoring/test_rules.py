"""Scoring rules: what the published rules credit, and what the corrected ones make of it.

That the published rules reproduce published figures is shown in test_published_figures.py.
"""

import pytest

from megatron_longrlvr.evaluation.scoring.measure import measure
from megatron_longrlvr.evaluation.scoring.output import ModelOutput

CITES = "<useful_chunks><CHUNK_3></useful_chunks>"


def scores(rules_of, text, *references):
    output = ModelOutput(cell="all", item_id="1", text=text, references=references)
    return measure(output, rules_of=rules_of).scores


def rules(published, answer_only, strict, soft):
    return {"published": published, "answer_only": answer_only, "strict": strict, "soft": soft}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("<answer>PARIS</answer>", rules(1, 1, 1, 1), id="right"),
        pytest.param("Not Paris.</think><answer>Rome</answer>", rules(1, 0, 0, 0), id="quoted"),
        pytest.param("It is Paris", rules(1, 1, 0, 1), id="no-block"),
        pytest.param("<answer>Rome</answer><answer>Paris</answer>", rules(1, 1, 0, 1), id="two"),
        pytest.param("<answer>Parisian</answer>", rules(1, 1, 1, 0), id="inside-a-word"),
        pytest.param("<Answer>Paris</ANSWER>", rules(1, 1, 0, 1), id="other-case"),
        pytest.param("", rules(0, 0, 0, 0), id="empty"),
    ],
)
def test_ruler(text, expected):
    assert scores("ruler", text, "Paris") == expected


def test_ruler_takes_any_reference_and_soft_takes_less_than_one():
    assert scores("ruler", "<answer>NYC</answer>", "New York", "nyc") == rules(1, 1, 1, 1)
    assert scores("ruler", "<answer>Washington</answer>", "George Washington") == rules(0, 0, 0, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("The correct answer is (B) Oslo", rules(1, 1, 0, 1), id="brackets"),
        pytest.param("**The correct answer is B**", rules(1, 1, 0, 1), id="asterisks"),
        pytest.param("<answer>(B) Oslo</answer>", rules(0, 0, 1, 1), id="block-without-the-words"),
        pytest.param("<answer>The correct answer is (C)</answer>", rules(0, 0, 0, 0), id="wrong"),
        pytest.param(
            "The correct answer is (B)<answer>The correct answer is (C)</answer>",
            rules(1, 0, 0, 0),
            id="changed-its-mind",
        ),
    ],
)
def test_longbench(text, expected):
    assert scores("longbench_v2", text, "B") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("x</think><answer>\nC. Oslo\n</answer>", rules(1, 1, 1, 1), id="right"),
        pytest.param(f"x</think>{CITES}<answer>\nA\n</answer>", rules(1, 0, 0, 0), id="chunk-tag"),
        pytest.param("<answer>Cats</answer>", rules(1, 1, 0, 0), id="inside-a-word"),
        pytest.param("<answer>A</answer>C", rules(0, 0, 0, 0), id="one-line-block-is-read"),
        pytest.param("C</think>A. Oslo", rules(0, 0, 0, 0), id="reasoning-is-left-out"),
        pytest.param("A</think>C. Oslo", rules(1, 1, 0, 1), id="no-block"),
        pytest.param(
            "<|channel|>analysis<|message|>D?<|end|><|channel|>final<|message|>**C**<|return|>",
            rules(1, 1, 0, 1),
            id="reasoning-in-a-channel",
        ),
    ],
)
def test_longreason(text, expected):
    assert scores("longreason", text, "C") == expected


@pytest.mark.parametrize(
    ("text", "answer_only", "strict", "soft", "token_f1"),
    [
        pytest.param(f"{CITES}<answer>the Paris</answer>", 1, 1, 1, 1, id="right"),
        pytest.param("<answer>Paris</answer>", 1, 0, 1, 1, id="no-citation"),
        # 1 common word of 1 + 2
        pytest.param(f"{CITES}<answer>Paris, France</answer>", 0, 0, 1, 2 / 3, id="says-more"),
        pytest.param("It is Paris", 0, 0, 1, 0, id="no-block"),
    ],
)
def test_samples(text, answer_only, strict, soft, token_f1):
    found = scores("samples", text, "Paris")
    expected = {"answer_only": answer_only, "strict": strict, "soft": soft, "token_f1": token_f1}
    assert found == pytest.approx(expected)
