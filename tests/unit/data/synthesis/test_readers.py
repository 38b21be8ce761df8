"""Readers: one tiny file of each kind, its text word for word, and files that cannot be read."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from megatron_longrlvr.config.synthesis import ReadConfig
from megatron_longrlvr.data.synthesis.outcome import Reason
from megatron_longrlvr.data.synthesis.readers.documents import (
    is_one_document,
    iter_row_texts,
    read_document,
)
from megatron_longrlvr.data.synthesis.readers.html import html_text
from megatron_longrlvr.data.synthesis.readers.sources import FileKind, list_sources
from megatron_longrlvr.errors import DataError

CODE = ReadConfig(paths=["x"]).code_suffixes


def pdf_of(*pages):
    """A PDF with a line of text on each page, written out by hand."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, lines in enumerate(pages):
        shown = " T* ".join(f"({line}) Tj" for line in lines)
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * index} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    tail = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + head.encode() + tail.encode()


def read(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    (source,) = list_sources([str(path)], code_suffixes=CODE)
    assert is_one_document(source)
    return read_document(source, data)


@pytest.mark.parametrize(
    ("name", "data", "text", "kind"),
    [
        pytest.param("a.txt", b"\xef\xbb\xbfOne\r\ntwo", "One\ntwo", "prose", id="text"),
        pytest.param(
            "a.md",
            b"---\ntitle: x\n---\n# Head\n<!-- no -->\nyes",
            "# Head\n\nyes",
            "prose",
            id="md",
        ),
        pytest.param("a.HTML", b"<p>a <b>b</b><p>c", "a b\n\nc", "prose", id="html"),
        pytest.param("a.py", b"def f():\n    pass\n", "def f():\n    pass\n", "code", id="code"),
        pytest.param(
            "a.pdf",
            pdf_of(["A won-", "derful day."], ["Page two."]),
            "A wonderful day.\n\nPage two.",
            "prose",
            id="pdf",
        ),
    ],
)
def test_a_file_is_read_word_for_word(tmp_path, name, data, text, kind):
    (row,) = read(tmp_path, name, data).rows
    assert (row.text, row.kind, row.source) == (text, kind, str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "data", "reason", "detail"),
    [
        pytest.param("a.txt", b"ab\xff", Reason.UNREADABLE, "not UTF-8 at byte 2", id="bytes"),
        pytest.param("a.txt", b" \n", Reason.NO_TEXT, "", id="blank"),
        pytest.param("a.pdf", b"%PDF-1.4\nbroken", Reason.UNREADABLE, "Error", id="broken-pdf"),
        pytest.param("a.pdf", pdf_of([]), Reason.NO_TEXT, "", id="pdf-of-pictures"),
    ],
)
def test_a_file_that_cannot_be_read_is_dropped_with_the_reason(
    tmp_path, name, data, reason, detail
):
    outcome = read(tmp_path, name, data)
    (dropped,) = outcome.dropped
    assert outcome.rows == ()
    assert dropped.reason is reason
    assert detail in dropped.detail


def test_a_page_is_read_as_it_looks():
    html = (
        "<html><head><title>T</title></head><body><nav>menu</nav><h1>Head</h1> <p>a <b>bold</b>\n"
        "word&amp;<br>next<script>alert(1)</script></p><table><tr><td>1</td><td>2</td></tr><tr>"
        "<td>3</td></tr></table><pre>x\n  y</pre><ul>\n<li>one\n<li>two</ul>tail<!-- c --></body>"
    )
    blocks = ["Head", "a bold word&\nnext", "1\t2\n3", "x\n  y", "one\ntwo", "tail"]
    assert html_text(html) == "\n\n".join(blocks)


def test_markup_nested_deeper_than_calls_go_is_read():
    assert html_text("<div>" * 20_000 + "deep") == "deep"


def test_rows_of_json_lines_are_documents_and_bad_ones_are_dropped_by_themselves(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = ['{"body": "one"}', "{broken", '{"text": "x"}', '{"body": 7}', '{"body": "two"}', "[1]"]
    path.write_text("\n".join(lines))
    (source,) = list_sources([str(path)], code_suffixes=CODE)
    outcomes = [row.outcome for row in iter_row_texts(source, text_field="body")]
    texts = [(row.source, row.text) for one in outcomes for row in one.rows]
    dropped = [(one.item, one.detail) for outcome in outcomes for one in outcome.dropped]
    assert texts == [(f"{path}:1", "one"), (f"{path}:5", "two")]
    assert [item for item, _ in dropped] == [f"{path}:{line}" for line in (2, 3, 4, 6)]
    assert [detail for _, detail in dropped[1:]] == [
        "no field 'body'",
        "'body' must be a text, got int",
        "must be a mapping, got list",
    ]


def test_rows_of_parquet_are_documents(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["one", None, "two"], "other": [1, 2, 3]}), path)
    (source,) = list_sources([str(path)], code_suffixes=CODE)
    rows = list(iter_row_texts(source, text_field="text"))
    assert [row.text for one in rows for row in one.outcome.rows] == ["one", "two"]
    assert [one.outcome.dropped[0].item for one in rows if one.outcome.dropped] == [f"{path}:2"]
    (missing,) = iter_row_texts(source, text_field="body")
    assert "read.text_field" in missing.outcome.dropped[0].detail


def test_folders_and_patterns_give_each_file_once_in_order_of_names(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.txt", "a.md", "b/c.pdf", "b/d.exe"):
        (tmp_path / name).write_text(json.dumps(name))
    paths = [str(tmp_path / "z.txt"), str(tmp_path), str(tmp_path / "**/*.md")]
    sources = list_sources(paths, code_suffixes=CODE)
    names = [str(source.path.relative_to(tmp_path)) for source in sources]
    assert names == ["z.txt", "a.md", "b/c.pdf", "b/d.exe"]
    assert sources[-1].kind is FileKind.UNKNOWN
    with pytest.raises(DataError, match=r"read\.paths: .*nothing"):
        list_sources([str(tmp_path / "nothing*")], code_suffixes=CODE)
