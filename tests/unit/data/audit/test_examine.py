"""Whatever a line holds, examining it gives a prompt's measures or says what is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.data.audit.examine import ExamineSettings, examine_batch
from megatron_longrlvr.data.raw_rows import RawBatch
from megatron_longrlvr.data.reachability import Cut
from tests.support.audit_data import text_record, toy_records
from tests.support.byte_tokenizer import save_byte_tokenizer

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
RECORDS = (text_record(0), toy_records("train", 1)[0])
NESTED = ("extra_info", "reward_model")


@st.composite
def damaged_records(draw):
    """A good record of either schema with one field, or one field of a field, replaced."""
    record = dict(draw(st.sampled_from(RECORDS)))
    name = draw(st.sampled_from(sorted(record)))
    if name in NESTED and draw(st.booleans()):
        inner = dict(record[name])
        inner[draw(st.sampled_from(sorted(inner)))] = draw(any_json)
        record[name] = inner
    else:
        record[name] = draw(any_json)
    return record


@pytest.fixture(scope="module")
def examine_settings(tmp_path_factory):
    return ExamineSettings(
        tokenizer=save_byte_tokenizer(tmp_path_factory.mktemp("bytes")),
        max_prompt_tokens=900,
        cut=Cut.MIDDLE,
        has_windows=True,
        is_eval=False,
    )


@given(record=st.one_of(any_json, damaged_records()))
@settings(max_examples=150, deadline=None)
def test_every_line_is_measured_or_found_to_be_wrong(examine_settings, record):
    line = json.dumps(record).encode()
    batch = RawBatch(path=Path("a.jsonl"), first_number=7, rows=(b"\n", line))
    (row,) = examine_batch(batch, examine_settings).rows
    assert row.place == "a.jsonl:8"
    assert (row.identity is None) == (row.measures is None)
    assert row.measures is not None or row.findings
