"""RULER-QA: prompts hold the evidence and as many other documents as the length allows.

Tokens are characters here, so lengths can be followed by hand.
"""

import pytest

from megatron_longrlvr.config.benchmark import RulerQaConfig
from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.evaluation.benchmarks.ruler_qa import TokenCounts, ruler_questions
from tests.unit.evaluation.benchmarks.benchmark_files import hotpot, save_json, squad

RESPONSE_TOKENS = 10
TAG_TOKENS = 7  # that a document costs in a prompt beyond its own


def prompt_tokens(question):
    return len(question.text) + sum(len(text) + TAG_TOKENS for text in question.documents)


COUNTS = TokenCounts(of_prompt=prompt_tokens, of_text=len)


@pytest.fixture
def files(tmp_path):
    return {
        "squad": str(save_json(tmp_path / "squad.json", squad())),
        "hotpot": str(save_json(tmp_path / "hotpot.json", hotpot())),
    }


def build(settings, skip=frozenset()):
    config = RulerQaConfig(kind="ruler_qa", **settings)
    return list(
        ruler_questions(config, counts=COUNTS, max_response_tokens=RESPONSE_TOKENS, skip=skip)
    )


@pytest.mark.parametrize("length", [*range(90, 310, 7), 1000])
def test_prompt_is_filled_and_never_above_the_length(files, length):
    for question in build({"squad": files["squad"], "lengths": [length]}):
        used = prompt_tokens(question) + RESPONSE_TOKENS
        assert used <= length
        # No document that is left out would have fitted: the smallest has 41 characters.
        assert len(question.documents) == 6 or used + 41 + TAG_TOKENS + 2 > length


def test_evidence_is_marked_where_it_stands(files):
    for question in build({**files, "lengths": [200]}):
        (place,) = question.evidence
        assert question.references[0] in question.documents[place]
        assert question.output_fields["evidence_chunk_ids"] == [place]


def test_rest_of_the_article_comes_before_other_documents(files):
    questions = build({"squad": files["squad"], "lengths": [200]})
    texts = " ".join(questions[0].documents)
    assert len(questions[0].documents) == 3
    assert all(city in texts for city in ("Paris", "Rome", "Oslo"))


def test_same_seed_same_questions_and_another_seed_another_order(files):
    settings = {**files, "lengths": [300, 1000]}
    assert build(settings) == build(settings)
    assert build(settings) != build({**settings, "seed": 1})


def test_skipping_questions_does_not_change_the_others(files):
    settings = {**files, "lengths": [300]}
    everything = build(settings)
    rest = build(settings, skip={everything[0].prompt_id, everything[3].prompt_id})
    assert rest == [one for place, one in enumerate(everything) if place not in {0, 3}]


def test_number_of_questions_is_limited_for_each_task_and_length(files):
    questions = build({**files, "lengths": [300, 400], "num_questions": 1})
    assert [one.prompt_id for one in questions] == [
        *("qa_1/300/0", "qa_1/400/0"),
        *("qa_2/300/0", "qa_2/400/0"),
    ]


def test_length_below_the_evidence_is_refused(files):
    with pytest.raises(DataError, match=r"hotpot.json:1: the documents of the question alone"):
        build({"hotpot": files["hotpot"], "lengths": [60]})


def test_no_file_is_refused():
    with pytest.raises(ConfigError, match=r"source\.squad or source\.hotpot"):
        build({})
