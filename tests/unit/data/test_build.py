"""A source from a data section: what happened to long prompts is told."""

from megatron_longrlvr.config.task import FileDataConfig
from megatron_longrlvr.data.build import build_prompt_source
from megatron_longrlvr.data.tokenizer import load_tokenizer
from tests.support.audit_data import write_lines
from tests.support.byte_tokenizer import save_byte_tokenizer

SHORT = {"chunks": ["a"], "question": "Why?", "answer": "so", "evidence": [0]}
LONG = SHORT | {"chunks": ["x" * 2000, "a"], "evidence": [1]}


def test_dropped_and_cut_prompts_are_counted_in_words(tmp_path):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "bytes"))
    path = write_lines(tmp_path / "train.jsonl", [SHORT, LONG, LONG])
    config = FileDataConfig(kind="files", paths=[str(path)])
    told = [
        build_prompt_source(config, tokenizer, max_prompt_tokens=limit, overlong=overlong, seed=0)[
            1
        ]
        for overlong, limit in (("drop", 1000), ("cut", 1000), ("refuse", 5000))
    ]
    assert told == [
        ["left out 2 prompts above 1000 tokens"],
        ["cut the beginning of 2 prompts above 1000 tokens"],
        [],
    ]
