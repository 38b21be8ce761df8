"""The audit finds each planted defect, at its place and nothing beside it; in clean data, nothing.

Each defect changes one thing in one record of clean files.
"""

import gzip

import pyarrow
import pytest
from pyarrow import parquet

from megatron_longrlvr.data.audit.findings import CHECK_INFO, Check
from megatron_longrlvr.data.audit.report import AuditRequest
from megatron_longrlvr.data.audit.run import run_audit
from megatron_longrlvr.data.reachability import Cut
from megatron_longrlvr.data.toy_tokenizer import write_toy_tokenizer
from megatron_longrlvr.errors import ConfigError, DataError
from tests.support.audit_data import text_record, toy_records, write_lines
from tests.support.byte_tokenizer import save_byte_tokenizer

NUM_RECORDS = 70  # more than one batch of rows
CHANGED = 66  # in the second batch
LIMIT = 4000  # bytes; the records have about 1400


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    return save_byte_tokenizer(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def toy_tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    write_toy_tokenizer(path)
    return path


def clean_records():
    return [text_record(seed) for seed in range(NUM_RECORDS)]


def eval_records():
    return [text_record(f"eval-{seed}") for seed in range(20)]


def audit(path, tokenizer, *, limit=LIMIT, **changes):
    return run_audit(
        AuditRequest(data=(path,), tokenizer=tokenizer, max_prompt_tokens=limit, **changes)
    )


def places(report):
    return [(finding.check, finding.place.rpartition(":")[2]) for finding in report.findings]


def test_clean_text_and_its_evaluation_data_have_no_findings(tmp_path, byte_tokenizer):
    data = write_lines(tmp_path / "train.jsonl", clean_records())
    held_out = write_lines(tmp_path / "eval.jsonl", eval_records())
    report = audit(data, byte_tokenizer, eval_data=(held_out,))
    assert report.findings == ()
    measures = report.measures
    assert (measures.num_rows, measures.num_eval_rows, measures.num_measured) == (70, 20, 70)
    assert measures.num_documents == 70


def test_clean_toy_task_has_no_findings(tmp_path, toy_tokenizer):
    data = write_lines(tmp_path / "train.jsonl", toy_records("train", 200))
    held_out = write_lines(tmp_path / "eval.jsonl", toy_records("heldout", 100))
    report = audit(data, toy_tokenizer, limit=172, eval_data=(held_out,))
    assert report.findings == ()
    # "Document:", 16 chunks of two tags and three words, "Question:", four names.
    assert report.measures.prompt_tokens.counts == {1 + 16 * 5 + 1 + 4: 200}
    assert report.measures.evidence_chunks.counts == {4: 200}


def changed(**changes):
    return [text_record(CHANGED) | changes]


def with_chunk(place, text):
    record = text_record(CHANGED)
    chunks = list(record["chunks"])
    chunks[place % len(chunks)] = text
    return [record | {"chunks": chunks}]


CLEAN = text_record(CHANGED)
EVIDENCE = CLEAN["evidence"][0]
OTHER = (EVIDENCE + 1) % 6
DEFECTS = {
    "not-json": (["{"], Check.MALFORMED_RECORD),
    "no-answer": (changed(answer=None), Check.MALFORMED_RECORD),
    "no-evidence": (changed(evidence=[]), Check.MALFORMED_RECORD),
    "evidence-of-texts": (changed(evidence=["1"]), Check.MALFORMED_RECORD),
    "no-mapping": (["[]"], Check.MALFORMED_RECORD),
    "twice": (changed(evidence=[EVIDENCE, EVIDENCE]), Check.DUPLICATE_EVIDENCE),
    "beyond": (changed(evidence=[EVIDENCE, 6]), Check.EVIDENCE_OUT_OF_RANGE),
    "negative": (changed(evidence=[-1, EVIDENCE]), Check.EVIDENCE_OUT_OF_RANGE),
    "same-id": (changed(id="history-3"), Check.REPEATED_PROMPT_ID),
    "blank": (with_chunk(EVIDENCE, ""), Check.UNREACHABLE_EVIDENCE),
    "long": (with_chunk(OTHER, "x" * 2 * LIMIT), Check.OVERLONG_PROMPT),
    "leak": (with_chunk(OTHER, f"Indeed, {CLEAN['answer']}!"), Check.ANSWER_OUTSIDE_EVIDENCE),
    "told": (
        changed(question=f"{CLEAN['question']} {CLEAN['answer']}, I think."),
        Check.ANSWER_IN_QUESTION,
    ),
    "asked-before": (
        changed(question=text_record(3)["question"].replace("?", " ?!")),
        Check.NEAR_DUPLICATE_QUESTION,
    ),
    "eval-question": (changed(question=text_record("eval-5")["question"]), Check.EVAL_QUESTION),
    "eval-document": (changed(chunks=text_record("eval-5")["chunks"]), Check.EVAL_DOCUMENT),
    "eval-item": (
        [text_record("eval-5") | {"chunks": ["".join(text_record("eval-5")["chunks"])]}],
        Check.EVAL_ITEM,
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defect_is_found_at_its_place_and_nothing_else_is(tmp_path, byte_tokenizer, name):
    (planted,), check = DEFECTS[name]
    if name == "eval-item":
        planted["evidence"] = [0]
    records = clean_records()
    records[CHANGED] = planted
    data = write_lines(tmp_path / "train.jsonl", records)
    held_out = write_lines(tmp_path / "eval.jsonl", eval_records())
    # A document that is cut on the right keeps its beginning; the padding is behind the evidence
    # or the cut is on the left and it is before.
    cut = Cut.RIGHT if OTHER > EVIDENCE else Cut.LEFT
    report = audit(data, byte_tokenizer, eval_data=(held_out,), cut=cut)
    assert places(report) == [(check, str(CHANGED + 1))]


def test_every_check_of_a_record_has_a_planted_defect():
    planted = {check for _, check in DEFECTS.values()}
    elsewhere = {Check.UNREADABLE_FILE, Check.UNKNOWN_EVIDENCE}
    assert planted | elsewhere == set(CHECK_INFO)


def test_all_defects_together_are_each_found(tmp_path, byte_tokenizer):
    records = clean_records()
    for place, ((planted,), _) in enumerate(DEFECTS.values(), start=20):
        is_record = not isinstance(planted, str) and planted["id"] == CLEAN["id"]
        records[place] = planted | {"id": f"planted-{place}"} if is_record else planted
    # The planted records share a document with one another but are to be found all the same.
    data = write_lines(tmp_path / "train.jsonl", records)
    held_out = write_lines(tmp_path / "eval.jsonl", eval_records())
    found = set(places(audit(data, byte_tokenizer, eval_data=(held_out,))))
    wanted = {
        (check, str(place + 1)) for place, (_, check) in enumerate(DEFECTS.values(), start=20)
    }
    assert wanted - found == set()


def test_each_malformed_record_is_reported_with_what_is_wrong(tmp_path, byte_tokenizer):
    lines = ["{", text_record(0), "[1]", "", text_record(1) | {"question": " "}]
    report = audit(write_lines(tmp_path / "a.jsonl", lines), byte_tokenizer)
    assert [(f.place, f.message) for f in report.findings][1:] == [
        (f"{tmp_path}/a.jsonl:3", "the record must be a mapping, got list"),
        (f"{tmp_path}/a.jsonl:5", "question is empty"),
    ]
    assert report.findings[0].place == f"{tmp_path}/a.jsonl:1"
    assert report.findings[0].message.startswith("not a JSON record")
    assert report.measures.num_rows == 4


def test_bad_ids_do_not_hide_other_defects(tmp_path, byte_tokenizer):
    ((record,), _) = DEFECTS["leak"]
    data = write_lines(tmp_path / "a.jsonl", [record | {"evidence": [EVIDENCE, EVIDENCE, 99]}])
    assert [finding.check for finding in audit(data, byte_tokenizer).findings] == [
        Check.DUPLICATE_EVIDENCE,
        Check.EVIDENCE_OUT_OF_RANGE,
        Check.ANSWER_OUTSIDE_EVIDENCE,
    ]


def test_evidence_cut_off_is_told_with_what_is_left(tmp_path, byte_tokenizer):
    record = {"chunks": ["aaaa", "bbbb"], "question": "Which?", "answer": "cc", "evidence": [0, 1]}
    data = write_lines(tmp_path / "a.jsonl", [record])
    # From the end: "\n\nQuestion: Which?" 18, "</CHUNK_1>" 10, "bbbb" 4, "<CHUNK_1>" 9, "\n" 1,
    # "</CHUNK_0>" 10; one more byte is the last "a".
    report = audit(data, byte_tokenizer, limit=18 + 10 + 4 + 9 + 1 + 10 + 1)
    unreachable = [f for f in report.findings if f.check is Check.UNREACHABLE_EVIDENCE]
    assert [finding.message for finding in unreachable] == [
        "1 of 2 evidence chunks: chunk 0 keeps 1 of 4 tokens and no complete pair of tags"
    ]


def test_evidence_outside_the_vocabulary_is_found(tmp_path, toy_tokenizer):
    record = {"chunks": ["ada ben lamp", "nonsense"], "question": "ada", "answer": "ada lamp"}
    data = write_lines(tmp_path / "a.jsonl", [record | {"evidence": [1]}])
    assert places(audit(data, toy_tokenizer)) == [(Check.UNKNOWN_EVIDENCE, "1")]


def test_parquet_gives_the_findings_of_json_lines(tmp_path, toy_tokenizer):
    records = toy_records("train", 80)
    records[70]["extra_info"]["ref_chunks"] = [16]
    lines = write_lines(tmp_path / "a.jsonl", records)
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    from_lines, from_parquet = (
        audit(path, toy_tokenizer) for path in (lines, tmp_path / "a.parquet")
    )
    assert places(from_lines) == places(from_parquet) == [(Check.EVIDENCE_OUT_OF_RANGE, "71")]
    assert from_lines.measures == from_parquet.measures


def test_two_processes_report_what_one_does(tmp_path, byte_tokenizer):
    records = clean_records()
    records[CHANGED] = "{"
    data = write_lines(tmp_path / "train.jsonl", records)
    held_out = write_lines(tmp_path / "eval.jsonl", eval_records())
    one, two = (
        audit(data, byte_tokenizer, eval_data=(held_out,), num_workers=workers)
        for workers in (1, 2)
    )
    assert one.findings == two.findings
    assert one.measures == two.measures


def test_unreadable_file_is_a_finding_and_the_next_one_is_read(tmp_path, byte_tokenizer):
    broken = tmp_path / "a.parquet"
    broken.write_bytes(b"not parquet")
    good = write_lines(tmp_path / "b.jsonl", [text_record(0)])
    request = AuditRequest(data=(broken, good), tokenizer=byte_tokenizer, max_prompt_tokens=LIMIT)
    report = run_audit(request)
    assert [(f.check, f.place) for f in report.findings] == [(Check.UNREADABLE_FILE, str(broken))]
    assert report.measures.num_rows == 1


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["empty", "blank-lines"])
def test_file_without_a_record_is_a_finding(tmp_path, byte_tokenizer, content):
    empty = tmp_path / "a.jsonl"
    empty.write_bytes(content)
    (finding,) = audit(empty, byte_tokenizer).findings
    assert (finding.check, finding.place) == (Check.UNREADABLE_FILE, str(empty))
    assert finding.message == "holds no record"


# What a person may hand over in place of a file of records, and the line that is named.
BROKEN = {
    "cut": (lambda line: line + line[:-9], 2),
    "latin-1": (lambda line: line + line.replace(b"sold", b"s\xf6ld"), 2),
    "utf-16": (lambda line: line.decode().encode("utf-16"), 1),
    "zero-bytes": (lambda line: line + b"\0" * 64, 2),
    "gzip": (gzip.compress, 1),
    "nesting": (lambda line: line + b"[" * 100_000, 2),
    "huge-number": (lambda line: line + b'{"id": ' + b"9" * 5000 + b"}", 2),
    "half-a-character": (lambda line: line + line.replace(b"sold", b"\\ud800"), 2),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_line_is_a_finding_at_its_place(tmp_path, byte_tokenizer, name):
    spoil, number = BROKEN[name]
    path = write_lines(tmp_path / "a.jsonl", [text_record(0)])
    path.write_bytes(spoil(path.read_bytes()))
    found = {finding.place: finding.check for finding in audit(path, byte_tokenizer).findings}
    assert found[f"{path}:{number}"] is Check.MALFORMED_RECORD


def test_missing_file_and_tokenizer_are_refused_by_name(tmp_path, byte_tokenizer):
    with pytest.raises(DataError, match=r"no data file .*none\.jsonl"):
        audit(tmp_path / "none.jsonl", byte_tokenizer)
    data = write_lines(tmp_path / "a.jsonl", [text_record(0)])
    with pytest.raises(ConfigError, match="no tokenizer folder"):
        audit(data, tmp_path / "none")


def test_evidence_place_is_counted_by_tenth_of_the_document(tmp_path, byte_tokenizer):
    # Ten chunks of ten bytes; chunks 0, 4 and 9 begin in tenths 0, 4 and 9.
    record = {"chunks": [f"{n}" * 10 for n in range(10)], "question": "Why?", "answer": "so it is"}
    data = write_lines(tmp_path / "a.jsonl", [record | {"evidence": [0, 4, 9]}])
    report = audit(data, byte_tokenizer)
    assert report.measures.decile_counts() == [1, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert report.measures.chunk_tokens.counts == {10: 10}
