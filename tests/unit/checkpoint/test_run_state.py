"""The position of a run comes back as it was, types included, or not at all."""

import math

import pytest

from megatron_longrlvr.checkpoint.run_state import RunState, read_state, write_state
from megatron_longrlvr.errors import CheckpointError

STATE = RunState(
    step=3, policy_version=6, prompt_cursor=48, extra={"rounds": 2, "kl": 0.1, "phase": "warm"}
)


def test_state_comes_back(tmp_path):
    write_state(tmp_path, STATE)
    found = read_state(tmp_path)
    assert found == STATE
    assert [type(value) for value in found.extra.values()] == [int, float, str]


def test_number_that_json_lacks_is_refused(tmp_path):
    state = RunState(step=1, policy_version=1, prompt_cursor=0, extra={"kl": math.nan})
    with pytest.raises(ValueError, match="nan"):
        write_state(tmp_path, state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="absent"),
        pytest.param('{"step": 3,', id="cut"),
        pytest.param('{"step": 3}', id="field-missing"),
        pytest.param("[]", id="not-an-object"),
    ],
)
def test_unreadable_state_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json is not a run state"):
        read_state(tmp_path)
