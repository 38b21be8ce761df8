"""Dataset: both schemas give the same prompt, and whatever cannot be used is named by its place.

Each refusal breaks one thing in a record that is accepted as it stands.
"""

import json

import pyarrow
import pytest
from pyarrow import parquet

from megatron_longrlvr.data.dataset import iter_records, load_prompts
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import DataError
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.support.word_tokenizer import CHAT_TEMPLATE, save_word_tokenizer

CHUNKS = ["the sky is", "blue"]
TEXT = render_prompt(chunks=CHUNKS, question="Why?", instruction="the")


def plain_record(**changes):
    record = {"chunks": CHUNKS, "question": "Why?", "answer": "blue", "evidence": [1]}
    return {key: value for key, value in (record | changes).items() if value is not ...}


def verl_record(*, text=TEXT, reward_model=..., extra_info=..., **changes):
    record = {
        "prompt": [{"role": "user", "content": text}],
        "data_source": "longrlvr",
        "reward_model": {"ground_truth": "blue"} if reward_model is ... else reward_model,
        "extra_info": {"ref_chunks": [1], "question": "Why?"}
        | ({} if extra_info is ... else extra_info),
    }
    return {key: value for key, value in (record | changes).items() if value is not ...}


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_word_tokenizer(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    return load_tokenizer(save_word_tokenizer(path, chat_template=CHAT_TEMPLATE))


def load(paths, tokenizer, *, max_prompt_tokens=1000, overlong="refuse", **changes):
    return load_prompts(
        paths,
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        overlong=overlong,
        **changes,
    )


def test_plain_record_becomes_a_prompt(tmp_path, tokenizer):
    path = write_lines(tmp_path / "train.jsonl", plain_record())
    (prompt,) = load([path], tokenizer).prompts
    assert prompt.prompt_id == "train:1"
    assert prompt.text == render_prompt(chunks=CHUNKS, question="Why?")
    assert list(prompt.token_ids) == tokenizer.encode(prompt.text)
    assert prompt.question == "Why?"
    assert list(prompt.chunks) == CHUNKS
    assert prompt.evidence_chunk_ids == {1}
    assert list(prompt.reference_answers) == ["blue"]


def test_verl_record_keeps_its_own_text(tmp_path, tokenizer):
    path = write_lines(tmp_path / "train.jsonl", verl_record())
    (prompt,) = load([path], tokenizer).prompts
    assert prompt.text == TEXT
    assert list(prompt.chunks) == CHUNKS
    assert (prompt.question, prompt.evidence_chunk_ids) == ("Why?", {1})
    assert list(prompt.reference_answers) == ["blue"]


def test_several_reference_answers_are_kept_in_order(tmp_path):
    path = write_lines(
        tmp_path / "train.jsonl",
        plain_record(answer=["blue", "azure"]),
        verl_record(reward_model={"ground_truth": ["blue", "azure"]}),
    )
    assert [r.reference_answers for r in iter_records([path])] == [("blue", "azure")] * 2


def test_parquet_equals_json_lines(tmp_path, tokenizer):
    records = [verl_record(extra_info={"index": place}) for place in (5, 6, 7)]
    lines = write_lines(tmp_path / "train.jsonl", *records)
    table = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), table)
    assert load([table], tokenizer) == load([lines], tokenizer)


def test_parquet_of_both_schemas_reads_absent_fields_as_absent(tmp_path):
    path = tmp_path / "train.parquet"
    tables = [
        pyarrow.Table.from_pylist([record])
        for record in (plain_record(id="a"), verl_record(), plain_record())
    ]
    parquet.write_table(pyarrow.concat_tables(tables, promote_options="default"), path)
    assert [r.prompt_id for r in iter_records([path])] == ["a", "train:2", "train:3"]


def test_parquet_rows_are_counted_across_batches(tmp_path):
    path = tmp_path / "train.parquet"
    records = [plain_record() for _ in range(150)]
    records[140] = plain_record(evidence=[9])
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    with pytest.raises(DataError, match=r"train\.parquet:141: evidence names chunk 9"):
        list(iter_records([path]))


def test_own_id_is_the_prompt_id_and_verl_index_follows_the_stem(tmp_path):
    path = write_lines(
        tmp_path / "train.jsonl", plain_record(id="q/7"), verl_record(extra_info={"index": 40})
    )
    assert [r.prompt_id for r in iter_records([path])] == ["q/7", "train:40"]


def test_files_are_read_in_the_given_order_and_blank_lines_count(tmp_path):
    first = write_lines(tmp_path / "b.jsonl", plain_record())
    second = tmp_path / "a.jsonl"
    second.write_text(f"\n{json.dumps(plain_record())}\n")
    assert [r.prompt_id for r in iter_records([first, second])] == ["b:1", "a:2"]


def test_records_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(plain_record()) + "\n{\n")
    records = iter_records([path])
    assert next(records).prompt_id == "train:1"
    with pytest.raises(DataError, match=r"train\.jsonl:2: not a JSON record"):
        next(records)


def test_chat_template_wraps_every_message_and_the_last_user_message_holds_the_document(
    tmp_path, chat_tokenizer
):
    messages = [
        {"role": "system", "content": "the"},
        {"role": "user", "content": "is"},
        {"role": "assistant", "content": "sky"},
        {"role": "user", "content": TEXT},
    ]
    path = write_lines(tmp_path / "train.jsonl", verl_record(prompt=messages))
    (prompt,) = load([path], chat_tokenizer).prompts
    assert prompt.text == f"[system] the [user] is [assistant] sky [user] {TEXT} [assistant] "
    assert list(prompt.chunks) == CHUNKS


def test_question_of_the_prompt_stands_in_for_an_absent_one(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", verl_record(extra_info={"question": None}))
    assert next(iter_records([path])).question == "Why?"


LONG = plain_record(chunks=[*CHUNKS, "the sky is blue"], id="long")


def limit_of(record, tmp_path, tokenizer):
    path = write_lines(tmp_path / "measured.jsonl", record)
    return len(load([path], tokenizer).prompts[0].token_ids)


def test_overlong_prompt_is_refused_by_place(tmp_path, tokenizer):
    limit = limit_of(plain_record(), tmp_path, tokenizer)
    path = write_lines(tmp_path / "train.jsonl", plain_record(), LONG)
    # The long document has one chunk more: "<CHUNK_2>the", "sky", "is", "blue</CHUNK_2>".
    message = rf"train\.jsonl:2: the prompt has {limit + 4} tokens, .*max_prompt_tokens={limit}"
    with pytest.raises(DataError, match=message):
        load([path], tokenizer, max_prompt_tokens=limit)


def test_overlong_prompt_is_dropped_and_counted_and_others_stay_whole(tmp_path, tokenizer):
    limit = limit_of(plain_record(), tmp_path, tokenizer)
    path = write_lines(tmp_path / "train.jsonl", LONG, plain_record())
    loaded = load([path], tokenizer, max_prompt_tokens=limit, overlong="drop")
    assert loaded.num_dropped_overlong == 1
    assert [prompt.prompt_id for prompt in loaded.prompts] == ["train:2"]
    assert len(loaded.prompts[0].token_ids) == limit


def test_cut_prompt_keeps_its_end_and_its_evidence(tmp_path):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "bytes"))
    path = write_lines(tmp_path / "train.jsonl", plain_record())
    # "<CHUNK_1>blue</CHUNK_1>" 23, "\n\n" 2, "Question: Why?" 14.
    loaded = load([path], tokenizer, max_prompt_tokens=39, overlong="cut")
    (prompt,) = loaded.prompts
    assert prompt.text == "<CHUNK_1>blue</CHUNK_1>\n\nQuestion: Why?"
    assert list(prompt.token_ids) == tokenizer.encode(prompt.text)
    assert (loaded.num_cut, loaded.num_dropped_overlong) == (1, 0)


def test_evidence_cut_off_is_refused_unless_allowed(tmp_path):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "bytes"))
    path = write_lines(tmp_path / "train.jsonl", plain_record(evidence=[0, 1]))
    # One byte less than the chunk with its tags needs.
    with pytest.raises(DataError, match=r"jsonl:1: evidence \[0, 1\] is .*allow_unreachable"):
        load([path], tokenizer, max_prompt_tokens=38, overlong="cut")
    loaded = load(
        [path], tokenizer, max_prompt_tokens=38, overlong="cut", allow_unreachable_evidence=True
    )
    assert loaded.prompts[0].evidence_chunk_ids == {0, 1}
    assert len(loaded.prompts[0].token_ids) == 38


def test_blank_evidence_is_refused_unless_allowed(tmp_path, tokenizer):
    path = write_lines(tmp_path / "train.jsonl", plain_record(chunks=["the", " "]))
    with pytest.raises(DataError, match=r"jsonl:1: evidence \[1\] is blank or cut off"):
        load([path], tokenizer)
    assert len(load([path], tokenizer, allow_unreachable_evidence=True).prompts) == 1


def test_nothing_left_is_refused(tmp_path, tokenizer):
    path = write_lines(tmp_path / "train.jsonl", LONG)
    with pytest.raises(DataError, match=r"no prompt to use in .*train\.jsonl: 1 dropped"):
        load([path], tokenizer, max_prompt_tokens=3, overlong="drop")


def test_repeated_prompt_id_names_both_places(tmp_path, tokenizer):
    path = write_lines(tmp_path / "train.jsonl", *[plain_record(id=i) for i in ("a", "b", "a")])
    with pytest.raises(DataError, match=r"jsonl:3: prompt id 'a' is already taken by .*jsonl:1"):
        load([path], tokenizer)


def test_same_file_twice_is_refused(tmp_path, tokenizer):
    path = write_lines(tmp_path / "train.jsonl", plain_record())
    with pytest.raises(DataError, match="already taken"):
        load([path, path], tokenizer)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param([1], "the record must be a mapping, got list", id="no-mapping"),
        pytest.param({}, "expected either 'prompt'", id="no-schema"),
        pytest.param(plain_record(prompt=[]), "expected either 'prompt'", id="two-schemas"),
        pytest.param(plain_record(evidence=...), "evidence is missing", id="no-evidence"),
        pytest.param(plain_record(evidence=[]), "evidence is missing", id="empty-evidence"),
        pytest.param(plain_record(evidence=1), "evidence must be a list, got int", id="no-list"),
        pytest.param(plain_record(evidence=["1"]), "whole numbers, got '1'", id="text-id"),
        pytest.param(plain_record(evidence=[True]), "whole numbers, got True", id="boolean-id"),
        pytest.param(
            plain_record(evidence=[0, 2]), "names chunk 2, .* chunks 0 to 1", id="id-too-high"
        ),
        pytest.param(plain_record(evidence=[-1]), "names chunk -1", id="id-below-zero"),
        pytest.param(plain_record(evidence=[1, 0, 1]), "more than once", id="id-twice"),
        pytest.param(plain_record(chunks=[]), "document is empty", id="no-chunks"),
        pytest.param(plain_record(chunks=[" ", "\n"]), "document is empty", id="blank-chunks"),
        pytest.param(plain_record(chunks="text"), "chunks must be a list", id="chunks-no-list"),
        pytest.param(plain_record(chunks=["a", 2]), r"chunks\[1\] must be a text", id="chunk-type"),
        pytest.param(
            plain_record(chunks=["a</CHUNK_0>"]), "would not be read back", id="chunk-markup"
        ),
        pytest.param(plain_record(question=" "), "question is empty", id="blank-question"),
        pytest.param(plain_record(question=...), "question is missing", id="no-question"),
        pytest.param(plain_record(answer=...), "answer is missing", id="no-answer"),
        pytest.param(plain_record(answer="\n"), "answer is empty", id="blank-answer"),
        pytest.param(plain_record(answer=[]), "answer is empty", id="empty-answers"),
        pytest.param(plain_record(answer=["a", ""]), r"answer\[1\] is empty", id="one-blank"),
        pytest.param(plain_record(answer=4), "answer must be a text, got int", id="answer-type"),
        pytest.param(plain_record(id=4), "id must be a text", id="id-type"),
        pytest.param(verl_record(prompt="text"), "prompt must be a list", id="verl-prompt-type"),
        pytest.param(
            verl_record(prompt=[{"role": "user"}]), r"prompt\[0\]\.content is missing",
            id="verl-content",
        ),
        pytest.param(
            verl_record(prompt=[{"role": "system", "content": TEXT}]), "role 'user'",
            id="verl-no-user",
        ),
        pytest.param(verl_record(text="Question: Why?"), "no chunk tags", id="verl-no-tags"),
        pytest.param(
            verl_record(text=TEXT.replace("CHUNK_1", "CHUNK_2")),
            "expected <CHUNK_1>, found <CHUNK_2>",
            id="verl-gap",
        ),
        pytest.param(
            verl_record(text="Document:\n<CHUNK_0> </CHUNK_0>\n\nQuestion: Why?"),
            "document is empty",
            id="verl-blank-document",
        ),
        pytest.param(verl_record(data_source=...), "data_source is missing", id="verl-source"),
        pytest.param(verl_record(reward_model="blue"), "must be a mapping", id="verl-reward-type"),
        pytest.param(
            verl_record(reward_model={}), "ground_truth is missing", id="verl-no-answer"
        ),
        pytest.param(
            verl_record(extra_info={"ref_chunks": None}),
            r"extra_info\.ref_chunks is missing",
            id="verl-no-evidence",
        ),
        pytest.param(
            verl_record(extra_info={"ref_chunks": [2]}),
            r"extra_info\.ref_chunks names chunk 2",
            id="verl-evidence-range",
        ),
        pytest.param(
            verl_record(extra_info={"question": ""}), r"extra_info\.question is empty",
            id="verl-question",
        ),
        pytest.param(verl_record(extra_info={"index": 1.5}), r"extra_info\.index", id="verl-index"),
    ],
)  # fmt: skip
def test_bad_record_is_refused_by_file_and_line(tmp_path, record, message):
    path = write_lines(tmp_path / "train.jsonl", plain_record(), record)
    with pytest.raises(DataError, match=rf"{tmp_path}/train\.jsonl:2: .*{message}"):
        list(iter_records([path]))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"chunks": [', id="cut"),
        pytest.param(b'{"question": "\xff"}', id="no-utf8"),
        pytest.param(b"[" * 100_000, id="nested-too-deep"),
        pytest.param(b'{"question": "\\uD800"}', id="half-a-surrogate-pair"),
    ],
)
def test_broken_line_is_refused_by_file_and_line(tmp_path, line):
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(plain_record()).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=r"train\.jsonl:2: not a JSON record"):
        list(iter_records([path]))


def test_surrogate_pair_is_a_text(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", plain_record(question="\U0001f600?"))
    assert b"\\ud83d" in path.read_bytes()
    assert next(iter_records([path])).question == "\U0001f600?"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("train.parquet", b"not parquet", "unreadable parquet", id="parquet"),
        pytest.param("train.csv", b"", r"must end in \.jsonl or \.parquet", id="kind"),
        pytest.param("train.jsonl", None, "no data file", id="absent"),
    ],
)
def test_unreadable_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refusal:
        list(iter_records([path]))
    assert str(path) in str(refusal.value)


def test_damaged_parquet_pages_are_named(tmp_path):
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([plain_record()] * 20), path)
    damaged = bytearray(path.read_bytes())
    damaged[4:200] = b"\xff" * 196  # The pages; the footer with the schema stays whole.
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"train\.parquet: unreadable parquet"):
        list(iter_records([path]))
