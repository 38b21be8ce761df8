"""Demonstrations: what is imitated says the right thing, and every rank gets its share.

The toy task's own demonstrations are tested with the task; here those made from data files.
"""

import json

import pytest

from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.sft import DemonstrationKind, SftRunConfig
from megatron_longrlvr.data.response_format import parse_strict
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.trainer.demonstrations import FileDemonstrations
from tests.support.word_tokenizer import save_word_tokenizer

RECORDS = [
    {"id": "a", "chunks": ["x", "y", "z"], "question": "q?", "answer": "one", "evidence": [2, 0]},
    {"id": "b", "chunks": ["x", "y"], "question": "q?", "answer": ["two", "2"], "evidence": [1]},
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    return path


def test_response_cites_the_evidence_and_gives_the_first_answer(path, tmp_path):
    kind = DemonstrationKind(paths=[str(path)])
    tokenizer = load_tokenizer(save_word_tokenizer(tmp_path / "tokenizer"))
    source = FileDemonstrations(kind, tokenizer, max_prompt_tokens=1000, seed=0)
    parsed = {prompt.prompt_id: parse_strict(text) for prompt, text in source.draw(2)}
    assert parsed["a"].cited_chunk_ids == (0, 2)
    assert (parsed["a"].answer, parsed["b"].answer) == ("one", "two")
    assert parsed["b"].cited_chunk_ids == (1,)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param({}, "give either task or paths", id="neither"),
        pytest.param(
            {"task": {"kind": "toy"}, "paths": ["x.jsonl"]}, "give either task or paths", id="both"
        ),
        pytest.param(
            {"paths": ["x.jsonl"], "citation_accuracy": 0.5}, "goes with task", id="noisy-files"
        ),
    ],
)
def test_kind_without_one_source_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        DemonstrationKind(**kind)


def test_shipped_recipe_imitates_files():
    config = load_config("smollm2_format", [], SftRunConfig)
    (stage,) = config.demonstrations.stages
    assert stage.kinds[0].paths == ["data/smollm2/short/train.jsonl"]
