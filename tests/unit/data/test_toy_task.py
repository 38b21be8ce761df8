"""The toy task: reproducible, split by fact, every piece of evidence needed, nothing given away.

The answer is worked out here once more from chunk texts and the question alone. Not covered: how
hard a model finds it.
"""

from collections import Counter
from itertools import combinations

import pytest

from megatron_longrlvr.config.task import MAX_TOY_KEYS, ToyTaskConfig
from megatron_longrlvr.data.prompt_format import parse_prompt, render_prompt
from megatron_longrlvr.data.response_format import ParseOutcome, parse_strict, parse_tolerant
from megatron_longrlvr.data.toy_task import ATTRIBUTES, KEYS, VALUES, ToyTask, split_of

SIZES = [
    pytest.param(4, 1, 2, id="4-chunks-no-look-alikes"),
    pytest.param(16, 2, 4, id="16-chunks"),
    pytest.param(20, 4, 3, id="20-chunks"),
    pytest.param(64, 4, 1, id="64-chunks"),
]


def config(num_chunks=16, num_attributes=2, num_evidence=4, *, seed=0, split="train"):
    return ToyTaskConfig(
        kind="toy",
        num_chunks=num_chunks,
        num_attributes=num_attributes,
        num_evidence=num_evidence,
        seed=seed,
        split=split,
    )


def answer_from(chunks, question):
    """What a reader of these chunks can answer; None in place of a value that they do not state."""
    attribute, *keys = question.split()
    stated = {tuple(chunk.split()[:2]): chunk.split()[2] for chunk in chunks}
    return [stated.get((key, attribute)) for key in keys]


def values_in(answer):
    return answer.split()[1::2]


def asked_facts(task, num_examples):
    facts = set()
    for index in range(num_examples):
        example = task.example(index)
        facts |= {tuple(example.chunks[place].split()) for place in example.evidence_chunk_ids}
    return facts


def test_vocabulary_words_are_all_different():
    words = [*KEYS, *ATTRIBUTES, *VALUES]
    assert len(set(words)) == len(words)
    assert len(KEYS) == MAX_TOY_KEYS


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        pytest.param((16, 3, 1), "multiple of num_attributes=3", id="uneven"),
        pytest.param((8, 4, 3), "num_evidence=3", id="too-few-keys"),
        pytest.param((24, 1, 1), "and 20", id="too-many-keys"),
    ],
)
def test_a_document_that_cannot_be_built_is_refused(sizes, named):
    with pytest.raises(ValueError, match=named):
        config(*sizes)


def test_an_example_depends_on_seed_split_and_index_alone():
    one, other = ToyTask(config(seed=3)), ToyTask(config(seed=3))
    assert one.example(7) == other.example(7)
    other.example(1)
    assert one.example(8) == other.example(8)


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


@pytest.mark.parametrize(("num_chunks", "num_attributes", "num_evidence"), SIZES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_fact_of_a_document_belongs_to_its_split(
    num_chunks, num_attributes, num_evidence, split
):
    task = ToyTask(config(num_chunks, num_attributes, num_evidence, split=split))
    for index in range(20):
        for chunk in task.example(index).chunks:
            assert split_of(*chunk.split()) == split


def test_splits_share_no_fact_that_is_asked_about():
    train = asked_facts(ToyTask(config()), 1000)
    heldout = asked_facts(ToyTask(config(split="heldout")), 1000)
    # Enough of each that an overlap could not hide by chance.
    assert len(train) > 1000
    assert len(heldout) > 1000
    assert not train & heldout


@pytest.mark.parametrize(("num_chunks", "num_attributes", "num_evidence"), SIZES)
def test_evidence_is_sufficient_and_every_piece_of_it_necessary(
    num_chunks, num_attributes, num_evidence
):
    task = ToyTask(config(num_chunks, num_attributes, num_evidence))
    for index in range(50):
        example = task.example(index)
        evidence = set(example.evidence_chunk_ids)
        assert len(evidence) == num_evidence
        enough = [example.chunks[place] for place in evidence]
        assert answer_from(enough, example.question) == values_in(example.answer)
        for missing in evidence:
            rest = [text for place, text in enumerate(example.chunks) if place != missing]
            assert None in answer_from(rest, example.question)


def test_no_other_chunks_of_the_same_number_hold_the_answers_values():
    for index in range(20):
        example = ToyTask(config()).example(index)
        wanted = set(values_in(example.answer))
        sets = [
            places
            for places in combinations(range(16), 4)
            if {example.chunks[place].split()[2] for place in places} == wanted
        ]
        assert sets == [tuple(sorted(example.evidence_chunk_ids))]


def test_answer_names_each_key_with_its_value_in_the_order_of_the_question():
    example = ToyTask(config()).example(5)
    assert example.answer.split()[0::2] == example.question.split()[1:]
    assert values_in(example.answer) == answer_from(example.chunks, example.question)


def test_every_piece_of_evidence_has_both_kinds_of_look_alikes():
    for index in range(50):
        example = ToyTask(config(20, 4)).example(index)
        facts = [chunk.split() for chunk in example.chunks]
        for place in example.evidence_chunk_ids:
            key, attribute, _ = facts[place]
            assert sum(fact[0] == key and fact[1] != attribute for fact in facts) == 3
            assert sum(fact[1] == attribute and fact[0] != key for fact in facts) == 4


def test_a_document_does_not_tell_what_is_asked():
    # Every key has every attribute, each once: the count of words is the same whatever is asked.
    for index in range(50):
        facts = [chunk.split() for chunk in ToyTask(config(20, 4)).example(index).chunks]
        assert set(Counter(key for key, _, _ in facts).values()) == {4}
        assert set(Counter(attribute for _, attribute, _ in facts).values()) == {5}


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


def test_an_inaccurate_demonstration_cites_look_alikes_and_answers_from_them():
    task = ToyTask(config(20, 4))
    for index in range(50):
        example = task.example(index)
        parsed = parse_strict(task.demonstration(index, citation_accuracy=0.0))
        cited = [example.chunks[place].split() for place in parsed.cited_chunk_ids]
        attribute, *keys = example.question.split()
        assert [key for key, _, _ in cited] == keys
        assert attribute not in {about for _, about, _ in cited}
        assert values_in(parsed.answer) == [value for _, _, value in cited]


def test_citation_accuracy_is_the_share_of_right_citations():
    task = ToyTask(config())
    right = sum(
        cited == wanted
        for index in range(500)
        for cited, wanted in zip(
            parse_strict(task.demonstration(index, citation_accuracy=0.3)).cited_chunk_ids,
            task.example(index).evidence_chunk_ids,
            strict=True,
        )
    )
    # Binomial(2000, 0.3): standard deviation sqrt(2000 * 0.3 * 0.7) = 20.5; four of them.
    assert abs(right - 600) < 82


def test_the_prompt_reads_back():
    example = ToyTask(config()).example(0)
    parsed = parse_prompt(
        render_prompt(chunks=example.chunks, question=example.question, instruction="")
    )
    assert parsed.chunks == example.chunks
    assert parsed.question == example.question
