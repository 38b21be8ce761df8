"""Weights on their way to servers, and what is said when they do not get there; without vLLM.

Promise: after an update every server that is used holds the policy's tensors to the bit, under the
version that its samples carry, whether they travel as files or by broadcast; a server that is lost
in the middle is left out and costs the others nothing; servers that missed an update are not used
until the next one; whatever a server does wrong with them stops the run, on every rank, with the
cause.
"""

import resource

import pytest
import torch
from safetensors.torch import load_file

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.model.hf_export import export_hf
from megatron_longrlvr.refit.server_publisher import ServerPublisher
from megatron_longrlvr.refit.settings import RefitSettings
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.server_pool import ServerPool
from megatron_longrlvr.rollout.vllm_server import VllmServerEngine
from megatron_longrlvr.stages import PromptBatch
from tests.support.http_server import HttpReply
from tests.support.learners import start_policy
from tests.support.rollout_server import RolloutServer
from tests.support.vllm_runs import perturb
from tests.support.word_prompts import Words, word_prompt

FOLDER = RECIPES / "toy_start"
WEIGHTS = FOLDER / "model.safetensors"
NORM = "model.norm.weight"
PARAMS = SamplingParams(max_response_tokens=4, temperature=1.0, seed=0)
CONFIG = {
    "health_every_s": 0.05,
    "health_timeout_s": 0.5,
    "recovery_timeout_s": 1.0,
    "broadcast_timeout_s": 2.0,
}
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

    def __init__(self, world_size, urls, transport, *, in_flight=False, **layout):
        self.policy = start_policy(FOLDER, layout, world_size)
        background = BackgroundLoop("test")
        config = RolloutServerConfig(**{**CONFIG, **transport}, in_flight_updates=in_flight)
        pool = ServerPool(urls, config, max_concurrent=4)
        settings = RefitSettings(bucket_bytes=BUCKET_BYTES, verify_every=1, verify_columns=5)
        publisher = ServerPublisher(self.policy, pool, background, settings, config)
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


def publish_twice(rank, world_size, urls, transport, layout):  # noqa: ARG001
    setting = Setting(world_size, urls, transport, **layout)
    found = []
    try:
        for version in (0, 3):
            perturb(setting.policy, seed=version)
            metrics = setting.engine.publish(version)
            found.append((versions(setting.begin().finish().samples), metrics["refit/gb"]))
    finally:
        setting.engine.close()
    return found, {name: tensor.clone() for name, tensor in export_hf(setting.policy)}


def publish_and_tell(rank, world_size, urls, transport):  # noqa: ARG001
    """What is said of an update after one that went well."""
    setting = Setting(world_size, urls, transport)
    try:
        setting.engine.publish(0)
        perturb(setting.policy, seed=1)
        setting.engine.publish(1)
    except RefitMismatch as error:
        return str(error)
    finally:
        setting.engine.close()
    return "no error"


def publish_to_a_full_folder(rank, world_size, urls, transport):
    """Full for the rank that writes, as its files may not grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BUCKET_BYTES // 2, limits[1]))
    try:
        return publish_and_tell(rank, world_size, urls, transport)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def publish_while_writing(rank, world_size, urls, transport):  # noqa: ARG001
    setting = Setting(world_size, urls, transport, in_flight=True)
    try:
        setting.engine.publish(0)
        pending = setting.begin()
        setting.engine.publish(1)
        return versions(pending.finish().samples), versions(setting.begin().finish().samples)
    finally:
        setting.engine.close()


@pytest.fixture(params=["files", "broadcast"])
def transport(request, tmp_path):
    return {"transport": request.param, "transfer_dir": str(tmp_path)}


@pytest.fixture
def files(tmp_path):
    return {"transfer_dir": str(tmp_path)}


@pytest.fixture
def two():
    with RolloutServer(weights=WEIGHTS) as first, RolloutServer(weights=WEIGHTS) as second:
        yield first, second


def addresses(servers):
    return [server.address for server in servers]


def without_repeats(routes):
    return [one for place, one in enumerate(routes) if place == 0 or routes[place - 1] != one]


def assert_holds(server, tensors):
    assert server.weights.keys() == tensors.keys()
    assert all(torch.equal(server.weights[name], tensor) for name, tensor in tensors.items())


def test_every_server_holds_the_policy_to_the_bit(pool1, two, transport, tmp_path):
    ((found, tensors),) = pool1.run(publish_twice, addresses(two), transport, {})
    for server in two:
        assert_holds(server, tensors)
        assert not torch.equal(server.weights[NORM], load_file(WEIGHTS)[NORM])
    sent_gb = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
    assert found == [({(0, ())}, pytest.approx(sent_gb)), ({(3, ())}, pytest.approx(sent_gb))]
    assert list(tmp_path.iterdir()) == []


def test_an_update_pauses_hands_over_resets_and_resumes_in_this_order(pool1, two, files):
    pool1.run(publish_twice, addresses(two), files, {})
    for server in two:
        first, again = server.routes.index("/pause"), server.routes.index("/pause", 1)
        assert first == 0
        routes = without_repeats(server.routes[again:])
        assert routes == without_repeats(UPDATE)
        assert server.routes.count("/update_weights") > 2 * 2
        assert server.routes.count("/init_weight_transfer_engine") == 1


@pytest.mark.parametrize("senders", [1, 2])
def test_ranks_that_share_the_weights_publish_them_together(pool2, two, transport, senders):
    transport["broadcast_senders"] = senders
    (found, tensors), (same, _) = pool2.run(publish_twice, addresses(two), transport, {"tp": 2})
    assert found == same
    for server in two:
        assert server.routes.count("/finish_weight_update") == 2
        assert_holds(server, tensors)


def spoil_all(weights):
    for tensor in weights.values():
        tensor.mul_(1.5)


def spoil_output(weights):
    weights["lm_head.weight"] += 1e-3


def test_a_server_that_computes_with_other_weights_is_found_out(pool1, two, files):
    two[1].spoils = spoil_all
    (said,) = pool1.run(publish_and_tell, addresses(two), files)
    assert f"{two[1].address}: the engine computes with other weights than version 0" in said


def test_a_stale_output_layer_is_named(pool1, two, files):
    two[1].spoils = spoil_output
    (said,) = pool1.run(publish_and_tell, addresses(two), files)
    assert "stale output layer after the update to version 0: lm_head.weight differs" in said


def test_a_cache_that_is_not_reset_is_an_error(pool1, two, files):
    two[0].resets_cache = False
    (said,) = pool1.run(publish_and_tell, addresses(two), files)
    assert f"{two[0].address} refused to reset its prefix cache for version 0" in said


def test_a_failure_reaches_every_rank(pool2, two, files):
    two[0].resets_cache = False
    first, second = pool2.run(publish_and_tell, addresses(two), files)
    assert first == second
    assert "refused to reset its prefix cache" in first


def test_a_full_transfer_folder_is_named_on_every_rank(pool2, two, files, tmp_path):
    first, second = pool2.run(publish_to_a_full_folder, addresses(two), files)
    assert first == second
    assert f"rollout.server.transfer_dir={tmp_path}: " in first
    assert "File too large" in first
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_in_an_update_is_left_out(pool1, two, files):
    def die(weights):  # noqa: ARG001
        two[1].die_soon()

    two[1].spoils = die
    ((found, _),) = pool1.run(publish_twice, addresses(two), files, {})
    assert [told for told, _ in found] == [{(0, ())}, {(3, ())}]
    assert len(two[0].answered) == 2 * 4 * 2
    assert two[1].answered == []


def breaks_off(server):
    server.reader.leave()
    server.die_soon()
    return HttpReply()


def falls_silent(server):
    server.is_well = False
    return HttpReply(hangs=True)


@pytest.mark.parametrize(("loss", "senders"), [(breaks_off, 1), (falls_silent, 1), (breaks_off, 2)])
def test_a_server_lost_in_the_middle_of_a_broadcast_costs_the_others_nothing(
    pool1, pool2, two, loss, senders
):
    two[1].on_bucket = lambda bucket: loss(two[1]) if bucket.place == 2 else None
    transport = {"transport": "broadcast", "broadcast_senders": senders}
    pool, layout = (pool1, {}) if senders == 1 else (pool2, {"tp": 2})
    found, tensors = pool.run(publish_twice, addresses(two), transport, layout)[0]
    assert [told for told, _ in found] == [{(0, ())}, {(3, ())}]
    assert len(two[0].answered) == 2 * 4 * 2
    assert two[1].answered == []
    assert_holds(two[0], tensors)
    # A group with the lost server, and one without.
    assert two[0].routes.count("/init_weight_transfer_engine") == 2


def test_a_server_started_again_takes_part_in_the_next_broadcast(pool1, two):
    """As another process at its address: it has no group and none of the weights."""

    def start_again(arrival):
        if arrival.index == 0:
            two[1].reader.leave()
            two[1].version = "default"

    places = []
    two[0].fault = start_again
    two[0].on_bucket = lambda bucket: places.append(bucket.place)
    transport = {"transport": "broadcast"}
    ((found, tensors),) = pool1.run(publish_twice, addresses(two), transport, {})
    assert found[-1][0] == {(3, ())}
    # Without a group of its own the first bucket would be lost on it, and at best be sent again.
    assert places == 2 * list(range(len(places) // 2))
    for server in two:
        assert_holds(server, tensors)
        assert server.answered


def test_servers_that_cannot_come_together_are_an_error_with_the_cause(pool1, two):
    two[1].joins_broadcasts = False
    transport = {"transport": "broadcast", "broadcast_timeout_s": 0.3}
    (said,) = pool1.run(publish_and_tell, addresses(two), transport)
    assert "did not come together for broadcasts in 4 attempts" in said


def test_a_bucket_corrupted_on_its_way_is_an_error(pool1, two):
    def corrupt(bucket):
        if NORM in bucket.checksums:
            bucket.checksums[NORM] = "1"

    two[1].on_bucket = corrupt
    (said,) = pool1.run(publish_and_tell, addresses(two), {"transport": "broadcast"})
    assert f"corrupted on its way to the engine: {NORM}" in said


def test_a_server_that_missed_an_update_is_not_asked_before_the_next_one(pool1, two, files):
    known, late = two
    late.is_well, late.version = False, "default"

    def let_the_other_recover(weights):  # noqa: ARG001
        late.is_well = True

    known.spoils = let_the_other_recover
    ((found, _),) = pool1.run(publish_twice, addresses(two), files, {})
    assert [told for told, _ in found] == [{(0, ())}, {(3, ())}]
    # All samples after the first update, half of them after the second.
    assert (len(known.answered), len(late.answered)) == (8 + 4, 4)
    assert late.routes.count("/finish_weight_update") == 1


def test_no_server_left_is_an_error_with_the_cause(pool1, files):
    with RolloutServer(weights=WEIGHTS) as server:
        address = server.address
        server.spoils = lambda weights: server.die_soon()  # noqa: ARG005
        (said,) = pool1.run(publish_and_tell, [address], files)
    assert "version 0 did not get to the rollout servers: no rollout server is left" in said
    assert f"{address}/" in said


def test_samples_under_way_go_on_with_the_new_weights_where_asked(pool1, files):
    """The server begins them, is paused before it writes them, and goes on after the update."""
    with RolloutServer(weights=WEIGHTS, version="default") as server:
        server.holds_first = 4
        ((during, after),) = pool1.run(publish_while_writing, [server.address], files)
    # As many as may be under way at the server had been begun, the others come afterwards.
    assert during == {(0, (1,)), (1, ())}
    assert after == {(1, ())}
