"""The audit's page and table show what was found, and markup in the data stays text."""

from pathlib import Path

from rich.console import Console

from megatron_longrlvr.data.audit.findings import Check, Finding
from megatron_longrlvr.data.audit.report import AuditReport, AuditRequest, Measures
from megatron_longrlvr.reporting.audit_page import MAX_SHOWN_FINDINGS, check_blocks, render_audit
from megatron_longrlvr.reporting.audit_table import print_audit

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def report_of(*findings, path="train.jsonl"):
    measures = Measures(num_rows=9)
    measures.prompt_tokens.add([100, 200, 200])
    request = AuditRequest(data=(Path(path),), tokenizer=Path("tok"), max_prompt_tokens=150)
    return AuditReport(request=request, findings=findings, measures=measures)


def finding(message="bad", *, check=Check.MALFORMED_RECORD, place="train.jsonl:1", prompt_id=None):
    return Finding(check=check, place=place, message=message, prompt_id=prompt_id)


def test_markup_from_the_data_is_escaped_everywhere():
    page = render_audit(report_of(finding(ATTACK, prompt_id=ATTACK, place=ATTACK), path=ATTACK))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4


def test_page_asks_for_nothing_from_outside():
    page = render_audit(report_of(finding()))
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "src=" not in page


def test_a_long_list_is_cut_on_the_page_and_whole_in_the_json():
    report = report_of(*[finding(f"number {n}") for n in range(MAX_SHOWN_FINDINGS + 5)])
    page = render_audit(report)
    assert page.count("<td>number ") == MAX_SHOWN_FINDINGS
    assert "The first 200 of 205" in page
    assert len(report.to_json()["findings"]) == MAX_SHOWN_FINDINGS + 5


def test_errors_come_before_warnings_and_every_check_is_listed():
    blocks = check_blocks(report_of(finding(check=Check.ANSWER_IN_QUESTION)))
    severities = [block.info.severity.value for block in blocks]
    assert severities == sorted(severities)
    assert len(blocks) == len(Check)
    assert {block.info.title: block.count for block in blocks}["Answer in the question"] == 1


def test_table_shows_counts_and_reads_no_markup_from_the_data(tmp_path):
    output = tmp_path / "table.txt"
    with output.open("w") as file:
        print_audit(report_of(finding("[bold]x[/]"), finding()), Console(file=file, width=200))
    printed = output.read_text()
    assert "[bold]x[/]" in printed
    assert "9 records, 2 errors, 0 warnings" in printed


def test_warnings_are_acceptable_unless_strict():
    warned = report_of(finding(check=Check.OVERLONG_PROMPT))
    assert warned.is_acceptable(strict=False)
    assert not warned.is_acceptable(strict=True)
    assert not report_of(finding()).is_acceptable(strict=False)
    assert report_of().is_acceptable(strict=True)
