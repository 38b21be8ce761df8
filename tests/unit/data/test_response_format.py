"""Response format: rendering and both parsers are inverse, and neither parser can be upset.

The strict parser is compared with the authors' rule on real model outputs where those are at hand
(1,897 released generations and 84 edge cases); the same rows pin what the tolerant parser rescues.
"""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.data.response_format import (
    ANSWER_TAG,
    CITATION_TAG,
    ParsedResponse,
    ParseOutcome,
    closed_blocks,
    parse_strict,
    parse_tolerant,
    places_strict,
    places_tolerant,
    render_response,
)

OUTPUTS = Path(__file__).parents[4] / "shared" / "data" / "longrlvr_outputs"
TEXT_FIELD = {
    "ruler": "pred",
    "longbench_v2": "response",
    "longreason": "response",
    "edge_cases": "text",
}
# Rows of each file, rows the strict parser accepts, rows the tolerant parser accepts.
MEASURED = {
    "ruler": (600, 504, 507),
    "longbench_v2": (503, 417, 417),
    "longreason": (794, 787, 794),
    "edge_cases": (84, 61, 67),
}

GOOD = "<useful_chunks><CHUNK_3> <CHUNK_7></useful_chunks>\n<answer>\nblue\n</answer>"
PARSERS = [
    pytest.param(parse_strict, id="strict"),
    pytest.param(parse_tolerant, id="tolerant"),
]

EXACT_TAGS = ["<useful_chunks>", "</useful_chunks>", "<answer>", "</answer>"]
EXACT_IDS = ["<CHUNK_0>", "<CHUNK_7>", "<CHUNK_12>", "</CHUNK_7>"]
ODD_MARKUP = [
    "< CHUNK_3 >", "<CHUNK 4>", "<CHUNK_5", " CHUNK_6 >", "<CHUNK_105J>", "<useful chunks>",
    '<chunk id="8">', " CHUNK_9 ",
    "</ USEFUL_CHUNKS >", "<Answer>", "</ANSWER>", "< answer", "<", ">", "</", "<CHUNK_", "<think>",
]  # fmt: skip
PROSE = ["blue", " ", "\n", "Answer: ", "chunk 4 says", "\u0663"]
THINK_END = ["</think>", "</ THINK >"]

odd_soup = st.lists(
    st.sampled_from(EXACT_TAGS + EXACT_IDS + PROSE + THINK_END + ODD_MARKUP), max_size=14
)


@st.composite
def exactly_one_block_of_each(draw, fillers):
    """Text with each exact tag once, around it anything from ``fillers``."""
    tags = EXACT_TAGS if draw(st.booleans()) else EXACT_TAGS[2:] + EXACT_TAGS[:2]
    filler = st.lists(st.sampled_from(fillers), max_size=4).map("".join)
    return draw(filler) + "".join(tag + draw(filler) for tag in tags)


def parsed(outcome, ids=(), answer=None):
    return ParsedResponse(outcome=outcome, cited_chunk_ids=ids, answer=answer)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(GOOD, parsed(ParseOutcome.OK, (3, 7), "blue"), id="both-blocks"),
        pytest.param(
            "<answer>b</answer><useful_chunks><CHUNK_1></useful_chunks>",
            parsed(ParseOutcome.OK, (1,), "b"),
            id="answer-first",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_3><CHUNK_1>\n<CHUNK_3></useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (3, 1, 3), "b"),
            id="order-and-repeats-kept",
        ),
        pytest.param(
            "<useful_chunks>none</useful_chunks><answer></answer>",
            parsed(ParseOutcome.OK, (), ""),
            id="empty-blocks",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_9>\nThe text.\n</CHUNK_9></useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (9,), "b"),
            id="closing-chunk-tag-cites-nothing",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_12-12> <CHUNK_105J> <CHUNK_4></useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (4,), "b"),
            id="longer-id-is-none",
        ),
        pytest.param(
            "<useful_chunks></ CHUNK_9 > subchunk_8></useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (), "b"),
            id="neither-closing-tag-nor-other-word",
        ),
        pytest.param(
            GOOD + "\n</think>\n", parsed(ParseOutcome.OK, (3, 7), "blue"), id="reasoning-ends-late"
        ),
        pytest.param("", parsed(ParseOutcome.NO_BLOCKS), id="nothing"),
        pytest.param("It is blue.", parsed(ParseOutcome.NO_BLOCKS), id="prose"),
        pytest.param(
            "<answer>blue</answer>",
            parsed(ParseOutcome.NO_CITATION, (), "blue"),
            id="answer-alone",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_2></useful_chunks> It is blue.</answer>",
            parsed(ParseOutcome.NO_ANSWER, (2,)),
            id="answer-never-opened",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_2> <answer>blue",
            parsed(ParseOutcome.NO_BLOCKS),
            id="nothing-closed",
        ),
        pytest.param(
            "<final_answer>blue</final_answer>", parsed(ParseOutcome.NO_BLOCKS), id="another-tag"
        ),
    ],
)
def test_parsers_agree_where_nothing_needs_forgiving(parse, text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "strict", "tolerant"),
    [
        pytest.param(
            f"{GOOD}\n{GOOD.replace('blue', 'red').replace('3', '4')}",
            parsed(ParseOutcome.REPEATED_CITATION),
            parsed(ParseOutcome.OK, (4, 7), "red"),
            id="both-twice-last-counts",
        ),
        pytest.param(
            GOOD + "<answer>red</answer>",
            parsed(ParseOutcome.REPEATED_ANSWER, (3, 7)),
            parsed(ParseOutcome.OK, (3, 7), "red"),
            id="answer-twice",
        ),
        pytest.param(
            f"<answer>red</answer></think>{GOOD}",
            parsed(ParseOutcome.REPEATED_ANSWER, (3, 7)),
            parsed(ParseOutcome.OK, (3, 7), "blue"),
            id="draft-in-reasoning",
        ),
        pytest.param(
            f"{GOOD}</think><answer>red</answer></think>",
            parsed(ParseOutcome.REPEATED_ANSWER, (3, 7)),
            parsed(ParseOutcome.OK, (3, 7), "red"),
            id="reasoning-ends-twice",
        ),
        pytest.param(
            f"I list <CHUNK_1> in <useful_chunks> now: <CHUNK_2></think>{GOOD}",
            parsed(ParseOutcome.OK, (2, 3, 7), "blue"),
            parsed(ParseOutcome.OK, (3, 7), "blue"),
            id="tag-opened-in-reasoning",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_1></useful_chunks><answer>I say <answer>blue</answer>",
            parsed(ParseOutcome.OK, (1,), "I say <answer>blue"),
            parsed(ParseOutcome.OK, (1,), "blue"),
            id="tag-opened-twice",
        ),
        pytest.param(
            "<USEFUL_CHUNKS><Chunk_3></Useful_Chunks><Answer>blue</ANSWER>",
            parsed(ParseOutcome.NO_BLOCKS),
            parsed(ParseOutcome.OK, (3,), "blue"),
            id="case",
        ),
        pytest.param(
            "<useful chunks>< CHUNK_3 > <CHUNK 4></ useful chunks >< answer >blue< / answer >",
            parsed(ParseOutcome.NO_BLOCKS),
            parsed(ParseOutcome.OK, (3, 4), "blue"),
            id="spacing",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_3, <CHUNK_4\nCHUNK_5 > chunk 6</useful_chunks>"
            "<answer>b</answer>",
            parsed(ParseOutcome.OK, (), "b"),
            parsed(ParseOutcome.OK, (3, 4, 5), "b"),
            id="one-bracket-missing",
        ),
        pytest.param(
            "<useful_chunks>[CHUNK_3], CHUNK 4 and (chunk 5)</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (), "b"),
            parsed(ParseOutcome.OK, (3, 4, 5), "b"),
            id="no-angle-brackets",
        ),
        pytest.param(
            "<useful_chunks>\n3, 7; 12\n</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (), "b"),
            parsed(ParseOutcome.OK, (3, 7, 12), "b"),
            id="numbers-alone",
        ),
        pytest.param(
            "<useful_chunks>[CHUNK_3]-[CHUNK_5]</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (), "b"),
            parsed(ParseOutcome.OK, (3, 5), "b"),
            id="range-names-its-ends",
        ),
        pytest.param(
            "<useful_chunks><chunk id=\"3\"> <Chunk id='4'/> <chunk id=5>text</chunk> "
            '<chunk id="CHUNK_6"></useful_chunks><answer>b</answer>',
            parsed(ParseOutcome.OK, (), "b"),
            parsed(ParseOutcome.OK, (3, 4, 5, 6), "b"),
            id="id-as-attribute",
        ),
        pytest.param(
            '<useful_chunks><chunk id="3" useful="no"> <chunk n="4"> <chunk id="5-7"> '
            '<chunk id="8"></useful_chunks><answer>b</answer>',
            parsed(ParseOutcome.OK, (), "b"),
            parsed(ParseOutcome.OK, (8,), "b"),
            id="other-attributes-cite-nothing",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_1>, CHUNK_4; [chunk_6] and </CHUNK_9> <CHUNK_7>\n"
            "</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (1, 7), "b"),
            parsed(ParseOutcome.OK, (1, 4, 6, 7), "b"),
            id="list-with-and-without-angle-brackets",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_1>, not CHUNK_4</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (1,), "b"),
            parsed(ParseOutcome.OK, (1,), "b"),
            id="mention-beside-an-id",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_1> - CHUNK_4</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (1,), "b"),
            parsed(ParseOutcome.OK, (1,), "b"),
            id="range-is-no-list",
        ),
        pytest.param(
            "<useful_chunks><CHUNK_1> CHUNK_4-6</useful_chunks><answer>b</answer>",
            parsed(ParseOutcome.OK, (1,), "b"),
            parsed(ParseOutcome.OK, (1,), "b"),
            id="longer-bare-id-is-none",
        ),
    ],
)
def test_tolerant_forgives_what_strict_does_not(text, strict, tolerant):
    assert parse_strict(text) == strict
    assert parse_tolerant(text) == tolerant


def test_digits_beyond_any_chunk_name_a_chunk_that_does_not_exist():
    # int() of more than 4300 digits raises, so these would end a run.
    text = GOOD.replace("<CHUNK_7>", f"<CHUNK_{'9' * 5000}> <CHUNK_{'0' * 5000}4>")
    expected = parsed(ParseOutcome.OK, (3, 10**18, 4), "blue")
    assert parse_strict(text) == expected
    assert parse_tolerant(text) == expected


@pytest.mark.parametrize("tag", [CITATION_TAG, ANSWER_TAG])
@given(pieces=odd_soup)
def test_closed_blocks_equal_the_authors_pattern(tag, pieces):
    text = "".join(pieces)
    assert list(closed_blocks(text, tag)) == re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.one_of(st.text(), odd_soup.map("".join)))
def test_any_text_is_a_value(parse, text):
    result = parse(text)
    assert isinstance(result.outcome, ParseOutcome)
    assert all(chunk_id >= 0 for chunk_id in result.cited_chunk_ids)
    if result.outcome is ParseOutcome.OK:
        assert result.answer is not None


@pytest.mark.parametrize(
    ("parse", "find_places"),
    [
        pytest.param(parse_strict, places_strict, id="strict"),
        pytest.param(parse_tolerant, places_tolerant, id="tolerant"),
    ],
)
@given(text=odd_soup.map("".join))
def test_blocks_stand_where_the_parser_reads_them(parse, find_places, text):
    result, places = parse(text), find_places(text)
    if places is None:
        return
    assert result.outcome is ParseOutcome.OK
    for place in (places.citation, places.answer):
        assert text[place.start] == "<"
        assert text[place.stop - 1] == ">"
    citation, answer = (
        text[place.start : place.stop] for place in (places.citation, places.answer)
    )
    assert parse(citation + answer) == result


@pytest.mark.parametrize("find_places", [places_strict, places_tolerant])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"so\n{GOOD}\n", (range(3, 53), range(54, 77)), id="in-order"),
        pytest.param(
            "<answer>b</answer><useful_chunks></useful_chunks>",
            (range(18, 49), range(18)),
            id="answer-first",
        ),
        pytest.param("<answer>b</answer>", None, id="no-citation"),
        pytest.param("<useful_chunks></useful_chunks>", None, id="no-answer"),
        pytest.param(
            "<answer><useful_chunks></answer></useful_chunks>",
            None,
            id="one-reaches-into-the-other",
        ),
    ],
)
def test_places_hold_the_tags(find_places, text, expected):
    places = find_places(text)
    assert expected == (places and (places.citation, places.answer))


@given(text=exactly_one_block_of_each(PROSE + EXACT_IDS + THINK_END + ODD_MARKUP))
def test_whatever_strict_accepts_tolerant_accepts(text):
    assert parse_strict(text).outcome is ParseOutcome.OK
    assert parse_tolerant(text).outcome is ParseOutcome.OK


@given(text=exactly_one_block_of_each([*PROSE[:-2], *EXACT_IDS, *THINK_END]))
def test_parsers_agree_when_each_tag_stands_once_in_exact_spelling(text):
    assert parse_strict(text).outcome is ParseOutcome.OK
    assert parse_tolerant(text) == parse_strict(text)


plain_text = st.text(alphabet=st.characters(exclude_characters="<>"), max_size=40)


@given(
    ids=st.lists(st.integers(0, 10**6), max_size=8),
    answer=plain_text.map(str.strip),
    reasoning=plain_text,
)
def test_rendered_response_is_read_back_by_both(ids, answer, reasoning):
    text = render_response(cited_chunk_ids=ids, answer=answer, reasoning=reasoning)
    assert parse_strict(text) == parsed(ParseOutcome.OK, tuple(ids), answer)
    assert parse_tolerant(text) == parse_strict(text)
    assert text.startswith(reasoning)


def test_rendered_response_is_the_documented_text():
    text = render_response(cited_chunk_ids=[3, 7], answer="blue", reasoning="I look.\n")
    assert text == f"I look.\n</think>\n{GOOD}"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"cited_chunk_ids": [-1], "answer": "b"}, id="negative-id"),
        pytest.param({"cited_chunk_ids": [1], "answer": " b"}, id="white-space"),
        pytest.param({"cited_chunk_ids": [1], "answer": "a</Answer>b"}, id="tag-in-answer"),
        pytest.param(
            {"cited_chunk_ids": [1], "answer": "b", "reasoning": "<answer>"}, id="tag-in-reasoning"
        ),
    ],
)
def test_response_that_would_not_be_read_back_is_refused(parts):
    with pytest.raises(ValueError, match="would not be read back"):
        render_response(**parts)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "piece",
    [
        "<answer>", "<useful_chunks>", "</answer>", "<", "< ", "<  /", "<CHUNK_", "<CHUNK_1",
        "1", " ", "< useful ", "</think", "chunk 1 ", "useful_chunks>", "<chunk id=", "CHUNK_1 ",
        "<CHUNK_1> CHUNK_2 ",
    ],
)  # fmt: skip
def test_megabyte_of_repetition_before_and_inside_a_response_changes_nothing(parse, piece):
    # A quadratic pattern would need hours for this text.
    noise = piece * (1_000_000 // len(piece))
    text = noise + "</think><useful_chunks><CHUNK_3></useful_chunks><answer>blue</answer>"
    result = parse(text)
    assert result.answer is not None
    assert result.answer.endswith("blue")
    inside = parse(f"<useful_chunks>{noise}</useful_chunks><answer>blue</answer>")
    assert isinstance(inside.outcome, ParseOutcome)


def rows_of(name):
    path = OUTPUTS / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"released model outputs are not at hand: no {path.name} beside the repository")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", TEXT_FIELD)
def test_strict_equals_the_expectation_on_every_released_output(name):
    for row in rows_of(name):
        text, expected = row[TEXT_FIELD[name]], row["exp"]
        result = parse_strict(text)
        num_citations = len(closed_blocks(text, CITATION_TAG))
        assert num_citations == expected["n_uc"]
        assert len(closed_blocks(text, ANSWER_TAG)) == expected["n_ans"]
        assert (result.outcome is ParseOutcome.OK) == expected["format_ok"]
        assert (list(result.cited_chunk_ids) if num_citations == 1 else None) == expected["ids"]
        assert result.answer == expected["ans"]


@pytest.mark.parametrize("name", TEXT_FIELD)
def test_rows_each_parser_accepts_are_as_measured(name):
    texts = [row[TEXT_FIELD[name]] for row in rows_of(name)]
    accepted = [
        sum(parse(text).outcome is ParseOutcome.OK for text in texts)
        for parse in (parse_strict, parse_tolerant)
    ]
    assert (len(texts), *accepted) == MEASURED[name]


@pytest.mark.parametrize("name", TEXT_FIELD)
def test_parsers_read_the_same_wherever_strict_accepts_a_released_output(name):
    for row in rows_of(name):
        strict = parse_strict(row[TEXT_FIELD[name]])
        if strict.outcome is ParseOutcome.OK:
            assert parse_tolerant(row[TEXT_FIELD[name]]) == strict
