"""A run directory belongs to one configuration, and says which setting differs."""

import subprocess
import sys

import pytest

from megatron_longrlvr.checkpoint.run_state import RunState
from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.trainer.run_dir import (
    check_prompts,
    claim_run_dir,
    fingerprint,
    hold_run_dir,
)

CONTENT = {
    "kind": "train",
    "run": {"name": "r", "dir": "runs/r"},
    "model": {"path": "m"},
    "data": {"train": {"kind": "toy"}, "max_prompt_tokens": 100},
    "rollout": {"prompts_per_step": 4, "max_response_tokens": 8},
    "algorithm": {"micro_batch_tokens": 100},
    "optimizer": {"lr": 0.001},
    "trainer": {"steps": 5},
}


def config(**changes) -> TrainConfig:
    content = {
        name: {**section, **changes.get(name, {})} if isinstance(section, dict) else section
        for name, section in {"rewards": {}, **CONTENT}.items()
    }
    return parse_config(content, TrainConfig, origin="test")


def begin(path, settings):
    """What a start leaves behind that has got as far as its first step."""
    run_dir = claim_run_dir(settings, path, may_write=True)
    (path / "metrics.jsonl").touch()
    return run_dir


def test_a_new_directory_gets_the_resolved_configuration(tmp_path):
    run_dir = claim_run_dir(config(), tmp_path / "run", may_write=True)
    assert run_dir.is_new
    assert parse_config_file(tmp_path / "run" / "config.json") == config()


def parse_config_file(path):
    import json

    return parse_config(json.loads(path.read_text()), TrainConfig, origin=str(path))


def test_the_same_configuration_finds_its_run_again(tmp_path):
    begin(tmp_path, config()).mark_finished(5)
    again = claim_run_dir(config(), tmp_path, may_write=True)
    assert not again.is_new
    assert again.is_finished(5)
    assert not again.is_finished(6)


@pytest.mark.parametrize(
    "changes",
    [{"trainer": {"steps": 9}}, {"layout": {"tp": 2}}, {"run": {"dir": "elsewhere"}}],
    ids=["longer", "other-layout", "moved"],
)
def test_what_does_not_change_the_run_may_differ(tmp_path, changes):
    begin(tmp_path, config())
    assert not claim_run_dir(config(**changes), tmp_path, may_write=True).is_new
    assert fingerprint(config(**changes)) == fingerprint(config())


def judge(**changes):
    settings = {"model": "m", "endpoints": [{"url": "http://one"}], **changes}
    return {"rewards": {"judge": settings}}


def test_the_way_to_a_judge_may_change_and_the_judge_may_not(tmp_path):
    begin(tmp_path, config(**judge()))
    moved = judge(endpoints=[{"url": "http://two"}], retry={"max_attempts": 9}, cache=None)
    assert not claim_run_dir(config(**moved), tmp_path, may_write=True).is_new
    with pytest.raises(ConfigError, match=r"rewards\.judge\.model: 'm' -> 'n'"):
        claim_run_dir(config(**judge(model="n")), tmp_path, may_write=True)


def test_where_samples_come_from_may_change_and_what_weights_write_them_may_not(tmp_path):
    def served(**server):
        return config(rollout={"engine": "vllm_server", "server": server})

    begin(tmp_path, served(num_servers=2))
    moved = served(urls=["http://two:8000"], max_attempts=9)
    assert not claim_run_dir(moved, tmp_path, may_write=True).is_new
    with pytest.raises(ConfigError, match=r"rollout\.server\.in_flight_updates: False -> True"):
        claim_run_dir(served(in_flight_updates=True), tmp_path, may_write=True)


def test_another_run_is_refused_with_the_setting_that_differs(tmp_path):
    begin(tmp_path, config())
    other = config(optimizer={"lr": 0.01})
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.001 -> 0\.01"):
        claim_run_dir(other, tmp_path, may_write=True)
    assert fingerprint(other) != fingerprint(config())


def test_settings_that_kept_a_run_from_beginning_can_be_mended(tmp_path):
    claim_run_dir(config(model={"path": "wrong"}), tmp_path, may_write=True)
    claim_run_dir(config(), tmp_path, may_write=True)
    assert parse_config_file(tmp_path / "config.json") == config()


def test_so_many_settings_that_differ_are_counted(tmp_path):
    begin(tmp_path, config())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"; and \d\d+ more; choose another run\.dir"):
        claim_run_dir(config(), tmp_path, may_write=True)


@pytest.mark.parametrize("content", ["", '{"run": ', "[]"])
def test_configuration_that_was_cut_short_is_named(tmp_path, content):
    begin(tmp_path, config())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json (cannot be read|must hold a mapping)"):
        claim_run_dir(config(), tmp_path, may_write=True)


@pytest.mark.parametrize("extra", [{}, {"prompts_digest": "a"}], ids=["of-old", "the-same"])
def test_run_goes_on_with_its_prompts(extra, tmp_path):
    check_prompts(state(**extra), "a", checkpoint=tmp_path)


@pytest.mark.parametrize("now", ["b", ""], ids=["other-files", "none"])
def test_run_does_not_go_on_with_other_prompts(now, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.train\.paths hold other prompts than when"):
        check_prompts(state(prompts_digest="a"), now, checkpoint=tmp_path)


def state(**extra):
    return RunState(step=1, policy_version=1, prompt_cursor=4, extra=extra)


HOLD = """
import sys, time
from pathlib import Path
from megatron_longrlvr.trainer.run_dir import hold_run_dir
with hold_run_dir(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_process_is_kept_from_a_run_until_the_first_has_ended(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(ConfigError, match=f"/link/run is in use by process {holder.pid} of"):
            hold_run_dir(tmp_path / "link" / "run", wait_s=0).__enter__()
        with hold_run_dir(tmp_path / "other", wait_s=0):
            pass
    finally:
        holder.kill()
        holder.wait()
    for _ in range(2):
        with hold_run_dir(tmp_path / "run", wait_s=0):
            pass


def test_directory_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run\.dir=.*/file/run cannot be written to: .*Errno 20"):
        claim_run_dir(config(), tmp_path / "file" / "run", may_write=True)
