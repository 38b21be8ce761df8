"""Segment credit: which tokens answer for which part of the reward, and with what advantage.

Tokens are pieces of text here, so that it can be seen where each of them begins. One tokenizer of
bytes stands for those whose tokens are less than a character.
"""

from dataclasses import replace
from math import sqrt

import pytest

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.algorithms.credit import SegmentCredit
from megatron_longrlvr.algorithms.overlong import charge_overlong
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import OverlongConfig
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import ScoredBatch
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.unit.algorithms.builders import algorithm, prompt, scored_sample

FLOAT32_RTOL = 1e-6
END = "<end>"
CITED, ANSWER = "<useful_chunks><CHUNK_3></useful_chunks>", "<answer>blue</answer>"
GOOD = ("I look", "</think>", "<useful_chunks>", "<CHUNK_3>", "</useful_chunks>")
RIGHT = ("<answer>", "blue", "</answer>", END)


class Pieces:
    """Tokens by their text; the end token has none."""

    def __init__(self):
        self.known = [END]

    def encode(self, pieces):
        self.known += [piece for piece in pieces if piece not in self.known]
        return [self.known.index(piece) for piece in pieces]

    def decode(self, token_ids):
        return "".join(self.known[one] for one in token_ids if one)


PIECES = Pieces()


def credit(parser="strict", decode=PIECES.decode, **rewards):
    return SegmentCredit(rewards=RewardsConfig(parser=parser, **rewards), decode=decode)


def written(pieces, index=0, *, answer=0.0, f_beta=0.0):
    """A scored sample of the paper's reward."""
    blank = scored_sample(prompt("p"), index, num_tokens=len(pieces))
    ids = PIECES.encode(pieces)
    return replace(
        blank,
        sample=replace(blank.sample, token_ids=ids, text=PIECES.decode(ids)),
        reward=answer + 0.1 * f_beta + 0.9 * answer * f_beta,
        reward_parts={"answer": answer, "context_f_beta": f_beta},
    )


def letters(pieces, parser="strict"):
    """``c`` for a token of the context part, ``a`` for one of the answer; None if undivided."""
    found = credit(parser).context_tokens(written(pieces).sample)
    return None if found is None else "".join("ac"[one] for one in found)


@pytest.mark.parametrize("parser", ["strict", "tolerant"])
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param((*GOOD, *RIGHT), "cccccaaaa", id="in-order"),
        pytest.param((*GOOD, "\n", "so", *RIGHT), "cccccaaaaaa", id="words-between"),
        pytest.param(("hm", ANSWER, "for", CITED, "\n", END), "caccaa", id="answer-first"),
        pytest.param((CITED, ANSWER), "ca", id="cut-behind-the-answer"),
        pytest.param((CITED + ANSWER, END), "ca", id="one-token-begins-in-the-context"),
        # Tokens across an edge go where they begin.
        pytest.param((CITED[:-1], ">\n<", ANSWER[1:]), "cca", id="closes-citation-opens-answer"),
        pytest.param((CITED, "\n<", ANSWER[1:]), "caa", id="begins-behind-the-citation"),
        pytest.param(
            (ANSWER[:-1], "><", CITED[1:], END), "aaca", id="closes-answer-opens-citation"
        ),
        pytest.param(("I", " <", CITED[1:], ANSWER), "ccca", id="opens-within-a-token"),
        pytest.param((CITED, "", ANSWER, "", END), "caaaa", id="tokens-without-text"),
        pytest.param((CITED,), None, id="no-answer"),
        pytest.param((ANSWER, END), None, id="no-citation"),
        pytest.param(("I look", END), None, id="no-blocks"),
        pytest.param((END,), None, id="ends-at-once"),
        pytest.param((CITED, "<answer>blue"), None, id="answer-not-closed"),
        pytest.param(
            ("<useful_chunks><CHUNK_3>", ANSWER, "</useful_chunks>"), None, id="answer-in-citation"
        ),
        pytest.param(
            ("<answer><useful_chunks>", "</answer></useful_chunks>"), None, id="blocks-overlap"
        ),
    ],
)
def test_each_token_belongs_to_the_part_in_which_it_begins(parser, pieces, expected):
    assert letters(pieces, parser) == expected


def test_the_blocks_are_those_that_the_recipe_s_parser_reads():
    draft = ("<answer>red</answer>", "</think>", CITED, ANSWER, END)
    assert letters(draft) is None
    assert letters(draft, "tolerant") == "cccaa"
    spelled = ("<Useful Chunks>3</useful chunks>", "< answer >b</ANSWER>", END)
    assert letters(spelled) is None
    assert letters(spelled, "tolerant") == "caa"


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param((f"\u00e9\u20ac\U0001f600{CITED}", f"\u20ac{ANSWER}\u20ac"), id="in-order"),
        pytest.param(
            ("\u00e9\u20ac\U0001f600", ANSWER, f"\u20ac{CITED}", "\u20ac"), id="answer-first"
        ),
    ],
)
def test_characters_of_several_tokens(tmp_path, runs):
    """Characters of two, three and four bytes at the edges; the last one breaks off."""
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path))
    ids = [*tokenizer.encode("".join(runs))[:-1], min(tokenizer.stop_ids)]
    sample = replace(written(RIGHT).sample, token_ids=ids, text=tokenizer.decode(ids))
    expected = [place % 2 == 0 for place, run in enumerate(runs) for _ in run.encode()]
    assert credit(decode=tokenizer.decode).context_tokens(sample) == expected


def group(*scored, **settings):
    batch = ScoredBatch(step=1, group_size=len(scored), scored=scored)
    return assign_advantages(batch, algorithm(**settings), credit())


def test_each_part_is_compared_within_the_group_on_its_own():
    # r_answer 1 0 0: mean 1/3, std sqrt(1/3): 2/sqrt 3, -1/sqrt 3, -1/sqrt 3.
    # r_context = .1 F + .9 a F: .5, .1, 0 for F = .5, 1, 0: mean .2, squares .09 + .01 + .04.
    std = sqrt(0.14 / 2)
    batch = group(
        written((*GOOD, *RIGHT), 0, answer=1.0, f_beta=0.5),
        written((CITED, "<answer>red</answer>", END), 1, f_beta=1.0),
        written(("<answer>", "red", "</answer>", CITED), 2),
    )
    expected = [
        [0.3 / std] * 5 + [2 / sqrt(3)] * 4,
        [-0.1 / std] + [-1 / sqrt(3)] * 2,
        [-1 / sqrt(3)] * 3 + [-0.2 / std],
    ]
    for got, wanted in zip(batch.advantages, expected, strict=True):
        assert got == pytest.approx(wanted, rel=FLOAT32_RTOL)
    assert batch.findings[names.CREDIT_UNDIVIDED_FRAC] == [0, 0, 0]
    assert batch.findings[names.CREDIT_CONTEXT_TOKENS_FRAC] == [5 / 9, 1 / 3, 1 / 4]


def test_a_response_without_parts_has_the_advantage_of_its_whole_reward_and_is_counted():
    # r 2, .1, 0; siblings are compared with the 0 of the third in both parts:
    # r_answer 1 0 0 and r_context 1 .1 0, by dr_grpo less the mean.
    batch = group(
        written((CITED, ANSWER), 0, answer=1.0, f_beta=1.0),
        written((CITED, ANSWER), 1, f_beta=1.0),
        written(("I", "look", END), 2),
        advantage="dr_grpo",
    )
    expected = [[1 - 1.1 / 3, 2 / 3], [0.1 - 1.1 / 3, -1 / 3], [-2.1 / 3] * 3]
    for got, wanted in zip(batch.advantages, expected, strict=True):
        assert got == pytest.approx(wanted, rel=FLOAT32_RTOL)
    assert batch.findings[names.CREDIT_UNDIVIDED_FRAC] == [0, 0, 1]
    assert len(batch.findings[names.CREDIT_CONTEXT_TOKENS_FRAC]) == 2


def test_where_all_answers_are_wrong_only_citations_are_learned_from():
    batch = group(
        written((CITED, ANSWER, END), 0, f_beta=1.0),
        written((CITED, ANSWER, END), 1, f_beta=0.5),
        written((CITED, ANSWER, END), 2, f_beta=0.0),
    )
    assert [tokens[1:] for tokens in batch.advantages] == [[0.0, 0.0]] * 3
    assert [tokens[0] for tokens in batch.advantages] == pytest.approx([1.0, 0.0, -1.0])


def test_credit_decides_about_no_sample():
    equal = [written((CITED, ANSWER), index, answer=1.0, f_beta=1.0) for index in range(2)]
    invalid = replace(written((CITED, ANSWER), 0), is_valid=False)
    spread = [
        invalid,
        *(written((CITED, ANSWER), index, f_beta=f) for index, f in ((1, 0.5), (2, 1.0))),
    ]
    assert group(*equal).num_dropped_groups == 1
    batch = group(*spread)
    assert [one.sample.sample_index for one in batch.scored] == [1, 2]
    assert [tokens[0] for tokens in batch.advantages] == pytest.approx([-sqrt(0.5), sqrt(0.5)])
    nothing = assign_advantages(ScoredBatch(step=1, group_size=2, scored=[]), algorithm(), credit())
    assert nothing.findings.keys() == batch.findings.keys()


def test_a_charge_for_length_is_taken_off_both_parts():
    # 2 and 4 tokens of at most 4, with a buffer of 2: charges 0 and 1.
    batch = ScoredBatch(
        step=1,
        group_size=2,
        scored=[
            written((CITED, ANSWER), 0, f_beta=1.0),
            written((CITED, "", ANSWER, END), 1, answer=1.0, f_beta=1.0),
        ],
    )
    charged = charge_overlong(batch, OverlongConfig(buffer_tokens=2), max_tokens=4)
    found = assign_advantages(charged, algorithm(advantage="dr_grpo"), credit())
    # Context .1 and 1 - 1; answer 0 and 1 - 1.
    assert found.advantages[0] == pytest.approx([0.05, 0.0], abs=1e-9)
    assert found.advantages[1] == pytest.approx([-0.05, 0.0, 0.0, 0.0], abs=1e-9)
