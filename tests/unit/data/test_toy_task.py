"""The toy task: reproducible, split by fact, every piece of evidence needed, nothing given away.

The answer is worked out here once more from chunk texts and the question alone. Not covered: how
hard a model finds it.
"""

from collections import Counter
from itertools import combinations

import pytest

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.prompt_format import parse_prompt, render_prompt
from megatron_longrlvr.data.response_format import ParseOutcome, parse_strict, parse_tolerant
from megatron_longrlvr.data.toy_task import GIFTS, PEOPLE, ToyTask, split_of

SIZES = [
    pytest.param(4, 2, id="4-chunks"),
    pytest.param(16, 4, id="16-chunks"),
    pytest.param(64, 1, id="64-chunks"),
]


def config(num_chunks=16, num_evidence=4, *, seed=0, split="train"):
    return ToyTaskConfig(
        kind="toy", num_chunks=num_chunks, num_evidence=num_evidence, seed=seed, split=split
    )


def answer_from(chunks, question):
    """What a reader of these chunks can answer; None for each gift that they do not state."""
    given = {giver: gift for giver, _, gift in map(str.split, chunks)}
    return [given.get(giver) for giver in question.split()]


def gifts_in(answer):
    return answer.split()[1::2]


def asked_pairs(task, num_examples):
    pairs = set()
    for index in range(num_examples):
        words = task.example(index).answer.split()
        pairs |= set(zip(words[0::2], words[1::2], strict=True))
    return pairs


def test_vocabulary_words_are_all_different():
    words = [*PEOPLE, *GIFTS]
    assert len(set(words)) == len(words)


def test_an_example_depends_on_seed_split_and_index_alone():
    one, other = ToyTask(config(seed=3)), ToyTask(config(seed=3))
    assert one.example(7) == other.example(7)
    other.example(1)
    assert one.example(8) == other.example(8)


def test_examples_stay_what_they_were():
    # A change here changes every measured run: the shipped start was trained on these documents.
    example = ToyTask(config(4, 2)).example(0)
    assert example.chunks == ("gus ora crown", "tess gus melon", "ora dora acorn", "dora tess fern")
    assert example.question == "tess dora"


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(config(seed=4), id="seed"),
        pytest.param(config(seed=3, split="heldout"), id="split"),
    ],
)
def test_another_seed_or_split_gives_other_examples(changed):
    base = ToyTask(config(seed=3))
    assert all(base.example(i) != ToyTask(changed).example(i) for i in range(20))


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="-1"):
        ToyTask(config()).example(-1)


@pytest.mark.parametrize(("num_chunks", "num_evidence"), SIZES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_pair_of_giver_and_gift_belongs_to_the_split(num_chunks, num_evidence, split):
    task = ToyTask(config(num_chunks, num_evidence, split=split))
    for index in range(20):
        for chunk in task.example(index).chunks:
            giver, _, gift = chunk.split()
            assert split_of(giver, gift) == split


def test_splits_share_no_pair_that_is_asked_about():
    train = asked_pairs(ToyTask(config()), 1000)
    heldout = asked_pairs(ToyTask(config(split="heldout")), 1000)
    # Enough of each that an overlap could not hide by chance: 24 people and 96 gifts make 2304.
    assert len(train) > 1000
    assert len(heldout) > 500
    assert not train & heldout


@pytest.mark.parametrize(("num_chunks", "num_evidence"), SIZES)
def test_evidence_is_sufficient_and_every_piece_of_it_necessary(num_chunks, num_evidence):
    task = ToyTask(config(num_chunks, num_evidence))
    for index in range(50):
        example = task.example(index)
        evidence = set(example.evidence_chunk_ids)
        assert len(evidence) == num_evidence
        enough = [example.chunks[place] for place in evidence]
        assert answer_from(enough, example.question) == gifts_in(example.answer)
        for missing in evidence:
            rest = [text for place, text in enumerate(example.chunks) if place != missing]
            assert None in answer_from(rest, example.question)


def test_no_other_chunks_of_the_same_number_hold_the_gifts_of_the_answer():
    for index in range(20):
        example = ToyTask(config()).example(index)
        wanted = set(gifts_in(example.answer))
        holding = [
            places
            for places in combinations(range(16), 4)
            if {example.chunks[place].split()[2] for place in places} == wanted
        ]
        assert holding == [tuple(sorted(example.evidence_chunk_ids))]


def test_answer_names_each_giver_with_the_gift_in_the_order_of_the_question():
    example = ToyTask(config()).example(5)
    assert example.answer.split()[0::2] == example.question.split()
    assert gifts_in(example.answer) == answer_from(example.chunks, example.question)


def test_everybody_gives_once_and_receives_once_from_somebody_else():
    # So every piece of evidence has a look-alike, and no word count tells who is asked about.
    for index in range(50):
        facts = [chunk.split() for chunk in ToyTask(config()).example(index).chunks]
        givers, receivers = [fact[0] for fact in facts], [fact[1] for fact in facts]
        assert len(set(givers)) == 16
        assert sorted(givers) == sorted(receivers)
        assert all(giver != receiver for giver, receiver, _ in facts)


def test_evidence_stands_anywhere_equally_often():
    num_examples = 2000
    counts = Counter(
        place
        for index in range(num_examples)
        for place in ToyTask(config()).example(index).evidence_chunk_ids
    )
    expected = num_examples * 4 / 16
    statistic = sum((counts[place] - expected) ** 2 / expected for place in range(16))
    # Chi-square, 15 degrees of freedom: above 37.7 once in 1000 tables. Four places of a document
    # are drawn without replacement, which only makes the counts more even.
    assert statistic < 37.7


def test_order_of_the_question_is_not_that_of_the_document():
    ascending = sum(
        list(evidence) == sorted(evidence)
        for evidence in (ToyTask(config()).example(i).evidence_chunk_ids for i in range(960))
    )
    # One order in 24: 40 expected, standard deviation sqrt(960 * 23) / 24 = 6.2; four of them.
    assert abs(ascending - 40) < 25


@pytest.mark.parametrize("parse", [parse_strict, parse_tolerant])
def test_a_right_demonstration_reads_back_as_evidence_and_answer(parse):
    task = ToyTask(config())
    for index in range(50):
        example = task.example(index)
        parsed = parse(task.demonstration(index))
        assert parsed.outcome is ParseOutcome.OK
        assert parsed.cited_chunk_ids == example.evidence_chunk_ids
        assert parsed.answer == example.answer


def test_a_demonstration_answers_from_the_chunks_it_cites():
    task = ToyTask(config())
    for index in range(50):
        example = task.example(index)
        parsed = parse_strict(task.demonstration(index, citation_accuracy=0.3))
        cited = [example.chunks[place].split()[2] for place in parsed.cited_chunk_ids]
        assert parsed.answer.split()[0::2] == example.question.split()
        assert gifts_in(parsed.answer) == cited


def test_citation_accuracy_is_the_share_of_right_citations():
    task = ToyTask(config())
    offsets = Counter()
    for index in range(500):
        evidence = task.example(index).evidence_chunk_ids
        parsed = parse_strict(task.demonstration(index, citation_accuracy=0.3))
        for right, cited in zip(evidence, parsed.cited_chunk_ids, strict=True):
            offsets[(cited - right) % 16] += 1
    # Binomial(2000, 0.3): standard deviation sqrt(2000 * 0.3 * 0.7) = 20.5; four of them.
    assert abs(offsets[0] - 600) < 82
    # The 15 wrong chunks share the rest: 93.3 each, standard deviation 9.4; four and a half.
    assert all(abs(offsets[offset] - 93.3) < 43 for offset in range(1, 16))


def test_a_demonstrator_who_is_never_right_never_cites_the_persons_own_gift():
    task = ToyTask(config())
    for index in range(50):
        evidence = task.example(index).evidence_chunk_ids
        cited = parse_strict(task.demonstration(index, citation_accuracy=0.0)).cited_chunk_ids
        assert all(mine != right for mine, right in zip(cited, evidence, strict=True))


def test_the_prompt_reads_back():
    example = ToyTask(config()).example(0)
    parsed = parse_prompt(
        render_prompt(chunks=example.chunks, question=example.question, instruction="")
    )
    assert parsed.chunks == example.chunks
    assert parsed.question == example.question
