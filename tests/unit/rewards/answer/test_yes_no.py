"""Yes and no: read as words of their own, and only where the answer says one of them."""

import pytest

from megatron_longrlvr.rewards.answer import yes_no
from megatron_longrlvr.rewards.answer.verification import Ruling


@pytest.mark.parametrize(
    ("answer", "reference", "ruling"),
    [
        pytest.param("Yes.", "yes", Ruling.RIGHT, id="same"),
        pytest.param("Answer: No", "no", Ruling.RIGHT, id="label"),
        pytest.param("true", "Yes", Ruling.RIGHT, id="synonym"),
        pytest.param("No, yes would be wrong", "no", Ruling.RIGHT, id="first-word-counts"),
        pytest.param("The answer is yes", "yes", Ruling.RIGHT, id="only-one-of-the-two"),
        pytest.param("Yes", "no", Ruling.WRONG, id="opposite"),
        pytest.param("", "no", Ruling.WRONG, id="empty"),
        pytest.param("I do not know", "no", Ruling.UNDECIDED, id="not-and-know-are-no-no"),
        pytest.param("yesterday", "yes", Ruling.UNDECIDED, id="yesterday"),
        pytest.param("yes and no", "yes", Ruling.UNDECIDED, id="hedge"),
        pytest.param("yes/no", "yes", Ruling.UNDECIDED, id="slash"),
        pytest.param("No doubt he did", "no", Ruling.UNDECIDED, id="no-doubt"),
        pytest.param("No one knows", "no", Ruling.UNDECIDED, id="no-one"),
        pytest.param("No it is older", "no", Ruling.RIGHT, id="no-comma"),
        pytest.param(r"$\boxed{\text{Yes}}$", "yes", Ruling.RIGHT, id="boxed"),
        pytest.param("\u200byes\ufeff", "yes", Ruling.RIGHT, id="invisible-characters"),
        pytest.param("some say yes, others no", "no", Ruling.UNDECIDED, id="both"),
        pytest.param("it is not true", "no", Ruling.UNDECIDED, id="negated-synonym"),
        pytest.param(
            "The correct answer is no", "no", Ruling.RIGHT, id="correct-answer-is-no-verdict"
        ),
        pytest.param("Correct answer: no", "no", Ruling.RIGHT, id="label-with-correct"),
        pytest.param("Based on CHUNK_3: **No**, he did not", "no", Ruling.RIGHT, id="own-clause"),
        pytest.param(
            "There is no doubt that he did, so yes.",
            "yes",
            Ruling.RIGHT,
            id="asserted-beside-a-counting-no",
        ),
        pytest.param("Yep.", "yes", Ruling.RIGHT, id="spoken"),
        pytest.param("The answer is not yes.", "yes", Ruling.UNDECIDED, id="negated"),
        pytest.param("If yes, then the duke won.", "yes", Ruling.UNDECIDED, id="condition"),
        pytest.param(
            "He said no to the offer.", "no", Ruling.UNDECIDED, id="somebody-else-said-it"
        ),
        pytest.param("A yes vote was cast", "yes", Ruling.UNDECIDED, id="adjective"),
        pytest.param("Yes... actually no", "yes", Ruling.UNDECIDED, id="taken-back"),
        pytest.param("Yes, but no", "yes", Ruling.UNDECIDED, id="but"),
        pytest.param("Probably yes, but no", "yes", Ruling.UNDECIDED, id="but-behind-a-hedge"),
        pytest.param("Yes if it rains, otherwise no", "yes", Ruling.UNDECIDED, id="otherwise"),
        pytest.param("Yes. On second thought, no.", "yes", Ruling.UNDECIDED, id="second-thought"),
        pytest.param("Yes.\n\nFinal answer: No", "yes", Ruling.UNDECIDED, id="another-answer"),
        pytest.param("No, I mean yes", "no", Ruling.UNDECIDED, id="i-mean"),
        pytest.param("Yes is incorrect", "yes", Ruling.UNDECIDED, id="word-is-rejected"),
        pytest.param("Yes. No ships sailed.", "yes", Ruling.RIGHT, id="no-behind-a-full-stop"),
        pytest.param("Yes; no, that is it", "yes", Ruling.UNDECIDED, id="no-behind-a-semicolon"),
        pytest.param("The answer is no doubt", "no", Ruling.UNDECIDED, id="no-doubt-labelled"),
        pytest.param("The answer is correct", "yes", Ruling.UNDECIDED, id="praise"),
        pytest.param("Nein.", "no", Ruling.RIGHT, id="other-language"),
        pytest.param("\u662f\u3002", "yes", Ruling.RIGHT, id="other-script"),
        pytest.param("Non seulement lui", "no", Ruling.UNDECIDED, id="word-of-a-sentence"),
        pytest.param('{"answer": "yes"}', "yes", Ruling.RIGHT, id="object"),
        pytest.param("No. 5", "no", Ruling.UNDECIDED, id="number-sign"),
        pytest.param("Yes", "Paris", Ruling.UNDECIDED, id="reference-is-neither"),
    ],
)
def test_ruling(answer, reference, ruling):
    assert yes_no.verify(answer, reference).ruling is ruling
