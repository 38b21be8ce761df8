"""Weights on their way to servers, and what is said when they do not get there; without vLLM.

Promise: after an update every server that is used holds the policy's tensors to the bit, under the
version that its samples carry; servers that missed it are not used until the next one; whatever a
server does wrong with them stops the run, on every rank, with the cause.
"""

import pytest
import torch
from safetensors.torch import load_file

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.refit.server_publisher import ServerPublisher
from megatron_longrlvr.refit.settings import RefitSettings
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.server_pool import ServerPool
from megatron_longrlvr.rollout.vllm_server import VllmServerEngine
from megatron_longrlvr.stages import PromptBatch
from tests.support.learners import start_policy
from tests.support.rollout_server import RolloutServer
from tests.support.vllm_runs import perturb
from tests.support.word_prompts import Words, word_prompt

FOLDER = RECIPES / "toy_start"
WEIGHTS = FOLDER / "model.safetensors"
NORM = "model.norm.weight"
PARAMS = SamplingParams(max_response_tokens=4, temperature=1.0, seed=0)
CONFIG = {"health_every_s": 0.05, "health_timeout_s": 0.5, "recovery_timeout_s": 1.0}
# Several buckets, and a tensor that is larger than one.
BUCKET_BYTES = 30_000
UPDATE = [
    "/pause",
    "/collective_rpc",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/collective_rpc",
    "/resume",
]


class Setting:
    """A policy and an engine over servers, inside a rank."""

    def __init__(self, world_size, urls, folder, *, in_flight=False, **layout):
        self.policy = start_policy(FOLDER, layout, world_size)
        background = BackgroundLoop("test")
        config = RolloutServerConfig(**CONFIG)
        pool = ServerPool(urls, config, max_concurrent=4)
        settings = RefitSettings(bucket_bytes=BUCKET_BYTES, verify_every=1, verify_columns=5)
        publisher = ServerPublisher(
            self.policy, pool, background, settings, transfer_dir=folder, in_flight=in_flight
        )
        self.engine = VllmServerEngine(
            pool,
            publisher,
            background,
            Words(),
            self.policy.groups,
            stop_ids=frozenset(),
        )
        self.engine.tokenizer.words = [str(word) for word in range(100)]

    def begin(self):
        prompts = [word_prompt(f"p{place}") for place in range(4)]
        return self.engine.begin(PromptBatch(step=1, prompts=prompts, group_size=2), PARAMS)


def versions(samples):
    return {(sample.policy_version, tuple(sample.later_versions)) for sample in samples}


def publish_twice(rank, world_size, urls, folder, layout):  # noqa: ARG001
    setting = Setting(world_size, urls, folder, **layout)
    found = []
    try:
        for version in (0, 3):
            perturb(setting.policy, seed=version)
            metrics = setting.engine.publish(version)
            found.append((versions(setting.begin().finish().samples), metrics["refit/gb"]))
    finally:
        setting.engine.close()
    tensors = {}
    if world_size == 1:
        from megatron_longrlvr.model.hf_export import export_hf

        tensors = {name: tensor.clone() for name, tensor in export_hf(setting.policy)}
    return found, tensors


def publish_and_tell(rank, world_size, urls, folder):  # noqa: ARG001
    """What is said of an update after one that went well."""
    setting = Setting(world_size, urls, folder)
    try:
        setting.engine.publish(0)
        perturb(setting.policy, seed=1)
        setting.engine.publish(1)
    except RefitMismatch as error:
        return str(error)
    finally:
        setting.engine.close()
    return "no error"


def publish_while_writing(rank, world_size, urls, folder):  # noqa: ARG001
    setting = Setting(world_size, urls, folder, in_flight=True)
    try:
        setting.engine.publish(0)
        pending = setting.begin()
        setting.engine.publish(1)
        return versions(pending.finish().samples), versions(setting.begin().finish().samples)
    finally:
        setting.engine.close()


@pytest.fixture
def two():
    with RolloutServer(weights=WEIGHTS) as first, RolloutServer(weights=WEIGHTS) as second:
        yield first, second


def addresses(servers):
    return [server.address for server in servers]


def without_repeats(routes):
    return [one for place, one in enumerate(routes) if place == 0 or routes[place - 1] != one]


def test_every_server_holds_the_policy_to_the_bit(pool1, two, tmp_path):
    ((found, tensors),) = pool1.run(publish_twice, addresses(two), tmp_path, {})
    for server in two:
        assert server.weights.keys() == tensors.keys()
        assert all(torch.equal(server.weights[name], tensor) for name, tensor in tensors.items())
        assert not torch.equal(server.weights[NORM], load_file(WEIGHTS)[NORM])
    sent_gb = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
    assert found == [({(0, ())}, pytest.approx(sent_gb)), ({(3, ())}, pytest.approx(sent_gb))]
    assert list(tmp_path.iterdir()) == []


def test_an_update_pauses_hands_over_resets_and_resumes_in_this_order(pool1, two, tmp_path):
    pool1.run(publish_twice, addresses(two), tmp_path, {})
    for server in two:
        first, again = server.routes.index("/pause"), server.routes.index("/pause", 1)
        assert first == 0
        routes = without_repeats(server.routes[again:])
        assert routes == without_repeats(UPDATE)
        assert server.routes.count("/update_weights") > 2 * 2
        assert server.routes.count("/init_weight_transfer_engine") == 1


def test_ranks_that_share_the_weights_publish_them_together(pool2, two, tmp_path):
    results = pool2.run(publish_twice, addresses(two), tmp_path, {"tp": 2})
    assert results[0][0] == results[1][0]
    assert two[0].routes.count("/finish_weight_update") == 2


def spoil_all(weights):
    for tensor in weights.values():
        tensor.mul_(1.5)


def spoil_output(weights):
    weights["lm_head.weight"] += 1e-3


def test_a_server_that_computes_with_other_weights_is_found_out(pool1, two, tmp_path):
    two[1].spoils = spoil_all
    (said,) = pool1.run(publish_and_tell, addresses(two), tmp_path)
    assert f"{two[1].address}: the engine computes with other weights than version 0" in said


def test_a_stale_output_layer_is_named(pool1, two, tmp_path):
    two[1].spoils = spoil_output
    (said,) = pool1.run(publish_and_tell, addresses(two), tmp_path)
    assert "stale output layer after the update to version 0: lm_head.weight differs" in said


def test_a_cache_that_is_not_reset_is_an_error(pool1, two, tmp_path):
    two[0].resets_cache = False
    (said,) = pool1.run(publish_and_tell, addresses(two), tmp_path)
    assert f"{two[0].address} refused to reset its prefix cache for version 0" in said


def test_a_failure_reaches_every_rank(pool2, two, tmp_path):
    two[0].resets_cache = False
    first, second = pool2.run(publish_and_tell, addresses(two), tmp_path)
    assert first == second
    assert "refused to reset its prefix cache" in first


def test_a_server_that_dies_in_an_update_is_left_out(pool1, two, tmp_path):
    def die(weights):  # noqa: ARG001
        two[1].die_soon()

    two[1].spoils = die
    ((found, _),) = pool1.run(publish_twice, addresses(two), tmp_path, {})
    assert [told for told, _ in found] == [{(0, ())}, {(3, ())}]
    assert len(two[0].answered) == 2 * 4 * 2
    assert two[1].answered == []


def test_a_server_that_missed_an_update_is_not_asked_before_the_next_one(pool1, two, tmp_path):
    known, late = two
    late.is_well, late.version = False, "default"

    def let_the_other_recover(weights):  # noqa: ARG001
        late.is_well = True

    known.spoils = let_the_other_recover
    ((found, _),) = pool1.run(publish_twice, addresses(two), tmp_path, {})
    assert [told for told, _ in found] == [{(0, ())}, {(3, ())}]
    # All samples after the first update, half of them after the second.
    assert (len(known.answered), len(late.answered)) == (8 + 4, 4)
    assert late.routes.count("/finish_weight_update") == 1


def test_no_server_left_is_an_error_with_the_cause(pool1, tmp_path):
    with RolloutServer(weights=WEIGHTS) as server:
        address = server.address
        server.spoils = lambda weights: server.die_soon()  # noqa: ARG005
        (said,) = pool1.run(publish_and_tell, [address], tmp_path)
    assert "version 0 did not get to the rollout servers: no rollout server is left" in said
    assert f"{address}/" in said


def test_samples_under_way_go_on_with_the_new_weights_where_asked(pool1, tmp_path):
    """The server begins them, is paused before it writes them, and goes on after the update."""
    with RolloutServer(weights=WEIGHTS, version="default") as server:
        server.holds_first = 4
        ((during, after),) = pool1.run(publish_while_writing, [server.address], tmp_path)
    # As many as may be under way at the server had been begun, the others come afterwards.
    assert during == {(0, (1,)), (1, ())}
    assert after == {(1, ())}
