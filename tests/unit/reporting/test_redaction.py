"""Secrets: gone by the name of their setting, by what they look like, and by their variable."""

import pytest

from megatron_longrlvr.reporting.redaction import REDACTED, hide_variables, redact


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param({"api_key": "abc"}, {"api_key": REDACTED}, id="key"),
        pytest.param({"db": {"password": "abc"}}, {"db": {"password": REDACTED}}, id="nested"),
        pytest.param({"api_key_env": "JUDGE_KEY"}, {"api_key_env": "JUDGE_KEY"}, id="a-name"),
        pytest.param({"max_tokens": 5, "token": ""}, {"max_tokens": 5, "token": ""}, id="harmless"),
        pytest.param(
            ["https://me:pw@host/v1"], [f"https://{REDACTED}@host/v1"], id="address-with-password"
        ),
        pytest.param("https://host:8000/v1", "https://host:8000/v1", id="address"),
        pytest.param(
            "train x judge.api_key=s3cret lr=1",
            f"train x judge.api_key={REDACTED} lr=1",
            id="given",
        ),
        pytest.param("rollout.max_response_tokens=24", "rollout.max_response_tokens=24", id="size"),
        pytest.param("--key sk-abcdefghijklmnop", f"--key {REDACTED}", id="known-form"),
        pytest.param("Bearer abc.def", f"Bearer {REDACTED}", id="header"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(content, expected):
    assert redact(content) == expected


def test_values_of_secret_variables_are_hidden_wherever_they_stand():
    variables = {"JUDGE_KEY": "open-sesame", "HOME": "/home/someone", "X_TOKEN": "short"}
    text = "open-sesame /home/someone short"
    assert hide_variables(text, variables) == f"{REDACTED} /home/someone short"
