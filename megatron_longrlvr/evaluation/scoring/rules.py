"""Scoring rules: from a response to a verification with a score in [0, 1].

For every benchmark the same four columns:

    published    the rule behind the published figures, with its faults
    answer_only  the same rule on the last answer block; the whole response where there is none
    strict       exactly one answer block, else wrong
    soft         the last complete answer block, case and spacing forgiven, compared leniently

The published rules decide every response. What a rule with a verifier leaves undecided, such as an
option's text without its letter, earns what the verifier pays for it and is counted apart.

The published rules:

- RULER-QA: a reference occurs anywhere in the response, reasoning included, case ignored. A
  response that quotes the reference and answers something else is right, and "no" is in "not".
- LongBench v2: the letter after "The correct answer is", with or without brackets, asterisks
  removed. An answer in any other form is wrong.
- LongReason: the reference letter occurs as a character in the first answer block that lies on one
  line, else in the text after the last ``</think>``. The "C" of ``<CHUNK_3>`` is one, and so is
  every capital letter of a name.

Paper: RULER, arXiv:2404.06654; LongBench v2, arXiv:2412.15204; LongReason, arXiv:2501.15089. The
rule for LongReason is the one that fits the verdicts published with LongRLVR, arXiv:2603.02146.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from megatron_longrlvr.data.response_format import (
    ANSWER_TAG,
    ParsedResponse,
    ParseOutcome,
    closed_blocks,
)
from megatron_longrlvr.evaluation.scoring.output import ModelOutput
from megatron_longrlvr.rewards.answer import choice, containment, normalized, token_f1
from megatron_longrlvr.rewards.answer.registry import AnswerVerifier, best_verification
from megatron_longrlvr.rewards.answer.verification import WRONG, Verification, rule

Rule = Callable[[ModelOutput, ParsedResponse, ParsedResponse], Verification]
"""From an output and its response by the strict and by the tolerant parser to a verification."""

_Match = Callable[[str, ModelOutput], Verification]
"""From the text that counts as the answer, and its output, to a verification."""

# Where the reasoning of gpt-oss ends, if a server passed its markers on.
_FINAL_CHANNEL = "<|channel|>final<|message|>"
_ONE_LINE_ANSWER = re.compile(r"<answer>([^\n]*?)</answer>")
_LONGBENCH_LETTER = (
    re.compile(r"The correct answer is \(([A-D])\)"),
    re.compile(r"The correct answer is ([A-D])"),
)


def _quotes(text: str, output: ModelOutput) -> Verification:
    lowered = text.lower()
    return rule(is_right=any(reference.lower() in lowered for reference in output.references))


def _states_letter(text: str, output: ModelOutput) -> Verification:
    plain = text.replace("*", "")
    found = (form.search(plain) for form in _LONGBENCH_LETTER)
    letter = next((match[1] for match in found if match), None)
    return rule(is_right=letter in output.references)


def _holds_letter(text: str, output: ModelOutput) -> Verification:
    return rule(is_right=output.references[0] in text)


def _longreason_published(
    output: ModelOutput, _strict: ParsedResponse, _tolerant: ParsedResponse
) -> Verification:
    block = _ONE_LINE_ANSWER.search(output.text)
    rest = block[1] if block else output.text.rpartition("</think>")[2]
    return _holds_letter(rest, output)


def _on_response(match: _Match) -> Rule:
    return lambda output, _strict, _tolerant: match(output.text, output)


def _on_last_answer(match: _Match, *, otherwise: Callable[[str], str]) -> Rule:
    def apply(
        output: ModelOutput, _strict: ParsedResponse, _tolerant: ParsedResponse
    ) -> Verification:
        blocks = closed_blocks(output.text, ANSWER_TAG)
        return match(blocks[-1] if blocks else otherwise(output.text), output)

    return apply


def _on_single_answer(match: _Match) -> Rule:
    def apply(
        output: ModelOutput, strict: ParsedResponse, _tolerant: ParsedResponse
    ) -> Verification:
        return WRONG if strict.answer is None else match(strict.answer, output)

    return apply


def _on_well_formed(match: _Match) -> Rule:
    def apply(
        output: ModelOutput, strict: ParsedResponse, _tolerant: ParsedResponse
    ) -> Verification:
        if strict.outcome is not ParseOutcome.OK or strict.answer is None:
            return WRONG
        return match(strict.answer, output)

    return apply


def _on_tolerant_answer(match: _Match, *, otherwise: Callable[[str], str]) -> Rule:
    def apply(
        output: ModelOutput, _strict: ParsedResponse, tolerant: ParsedResponse
    ) -> Verification:
        answer = otherwise(output.text) if tolerant.answer is None else tolerant.answer
        return match(answer, output)

    return apply


def _verified(verify: AnswerVerifier) -> _Match:
    return lambda text, output: best_verification(verify, text, output.references)


def _after_reasoning(text: str) -> str:
    marked = text.rpartition(_FINAL_CHANNEL)[2] if _FINAL_CHANNEL in text else text
    return marked.rpartition("</think>")[2]


def _whole(text: str) -> str:
    return text


def _nothing(_text: str) -> str:
    return ""


def _choice_rules(
    published: Rule, match: _Match, otherwise: Callable[[str], str]
) -> Mapping[str, Rule]:
    names_option = _verified(choice.verify)
    return {
        "published": published,
        "answer_only": _on_last_answer(match, otherwise=otherwise),
        "strict": _on_single_answer(names_option),
        "soft": _on_tolerant_answer(names_option, otherwise=_after_reasoning),
    }


_RULER: Mapping[str, Rule] = {
    "published": _on_response(_quotes),
    "answer_only": _on_last_answer(_quotes, otherwise=_whole),
    "strict": _on_single_answer(_quotes),
    "soft": _on_tolerant_answer(_verified(containment.verify), otherwise=_whole),
}
_SAMPLES: Mapping[str, Rule] = {
    "answer_only": _on_tolerant_answer(_verified(normalized.verify), otherwise=_nothing),
    "strict": _on_well_formed(_verified(normalized.verify)),
    "soft": _on_tolerant_answer(_verified(containment.verify), otherwise=_after_reasoning),
    "token_f1": _on_tolerant_answer(_verified(token_f1.verify), otherwise=_nothing),
}

RULES: Mapping[str, Mapping[str, Rule]] = {
    "ruler": _RULER,
    "longbench_v2": _choice_rules(_on_response(_states_letter), _states_letter, _whole),
    "longreason": _choice_rules(_longreason_published, _holds_letter, _after_reasoning),
    "samples": _SAMPLES,
    "mapped": _SAMPLES,
}
"""Rules by name, by the name of the format; no rule is published for the last two."""
