"""Readable answers: dress and encoding go, and no digit becomes part of another number."""

import pytest

from megatron_longrlvr.rewards.answer.readable import readable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("10\u2075", "10^5", id="power"),
        pytest.param("10\u207b\u00b2", "10^-2", id="negative-power"),
        pytest.param("1\u00bd", "1 1/2", id="mixed-number"),
        pytest.param("\u00be", "3/4", id="fraction"),
        pytest.param("1\u202f234", "1,234", id="thin-space-groups"),
        pytest.param("12\u00a05", "12 5", id="fixed-space-groups-nothing"),
        pytest.param("\uff21\uff1a\u2212\uff13", "A:-3", id="full-width"),
        pytest.param("a\u00ad\u200b\u2060b\ufeff", "ab", id="invisible"),
        pytest.param(r"\boxed{\text{\textbf{B}}}", "B", id="nested"),
        pytest.param(r"\(x\)", "x", id="math"),
        pytest.param("$x$", "x", id="dollars-around"),
        pytest.param("$5", "$5", id="dollar-in-front"),
        pytest.param("$5 or 6$?", "$5 or 6$?", id="dollars-inside"),
        pytest.param("<b>x</b>", "x", id="element"),
        pytest.param("<B> x", "<B> x", id="option-in-angle-brackets"),
        pytest.param("</think>x<CHUNK_3>", "x", id="tags-of-the-format"),
        pytest.param('{"answer": "x"}', "x", id="object"),
        pytest.param('```json\n{"Answer": 1.50, "reason": "y"}\n```', "1.50", id="fenced-object"),
        pytest.param('{"answer": "x", "final_answer": "y"}', None, id="two-answers"),
        pytest.param('{"answer": "x", "answer": "y"}', None, id="repeated-answer"),
        pytest.param('{"answer": ["x", "y"]}', None, id="list-in-an-object"),
        pytest.param('{"answer": "x"', None, id="cut-object"),
        pytest.param("{" * 50_000 + "}" * 50_000, None, id="nested-braces"),
        pytest.param("x" + " \n" * 30_000 + "y", "x\ny", id="many-lines"),
        pytest.param("x" + " \t" * 30_000 + "y", "x y", id="many-spaces"),
        pytest.param("x\n\n y", None, id="paragraph"),
        pytest.param(r"C:\new\text", r"C:\new\text", id="path"),
    ],
)
def test_readable_form(text, expected):
    assert readable(text) == (text if expected is None else expected)
