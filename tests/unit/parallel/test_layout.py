"""Rank arithmetic: equal to a table written by hand, to megatron-core's own, and to a partition.

Errors name the key of the recipe that has to change.
"""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.config.policy import LayoutConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.parallel.layout import ParallelLayout, RankCoordinates


@st.composite
def layouts(draw):
    tp, cp, pp, dp = (draw(st.sampled_from([1, 2, 3, 4])) for _ in range(4))
    ep = draw(st.sampled_from([n for n in range(1, cp * dp + 1) if cp * dp % n == 0]))
    return ParallelLayout(world_size=tp * cp * pp * dp, tp=tp, cp=cp, pp=pp, ep=ep)


def test_coordinates_match_the_table_written_by_hand():
    layout = ParallelLayout(world_size=16, tp=2, cp=2, pp=2, ep=4)  # dp = 2
    # rank: tp, cp, dp, pp as binary digits from the fastest; ep = cp + 2 * dp, one expert replica.
    table = {
        0: (0, 0, 0, 0, 0),
        1: (1, 0, 0, 0, 0),
        2: (0, 1, 0, 0, 1),
        3: (1, 1, 0, 0, 1),
        4: (0, 0, 1, 0, 2),
        7: (1, 1, 1, 0, 3),
        8: (0, 0, 0, 1, 0),
        15: (1, 1, 1, 1, 3),
    }
    for rank, (tp, cp, dp, pp, ep) in table.items():
        expected = RankCoordinates(tp=tp, cp=cp, dp=dp, pp=pp, ep=ep, expert_dp=0)
        assert layout.coordinates(rank) == expected


def test_expert_replicas_follow_the_experts():
    layout = ParallelLayout(world_size=8, tp=2, ep=2)  # 4 shards of 2: ep fastest
    places = [(layout.coordinates(r).ep, layout.coordinates(r).expert_dp) for r in range(0, 8, 2)]
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        pytest.param(("tp",), ((0, 1), (2, 3), (4, 5), (6, 7)), id="tp"),
        pytest.param(("cp",), ((0, 2), (1, 3), (4, 6), (5, 7)), id="cp"),
        pytest.param(("pp",), ((0, 4), (1, 5), (2, 6), (3, 7)), id="pp"),
        pytest.param(("tp", "pp"), ((0, 1, 4, 5), (2, 3, 6, 7)), id="tp-pp"),
        pytest.param(("dp",), tuple((r,) for r in range(8)), id="dp-of-one"),
    ],
)
def test_groups_match_the_table_written_by_hand(axes, expected):
    layout = ParallelLayout(world_size=8, tp=2, cp=2, pp=2)
    assert layout.groups(*axes) == expected


@settings(deadline=None)  # no statement about speed
@given(layouts(), st.sets(st.sampled_from(["tp", "cp", "dp", "pp"])))
def test_groups_partition_the_world(layout, axes):
    groups = layout.groups(*axes)
    assert sorted(rank for group in groups for rank in group) == list(range(layout.world_size))
    size = 1
    for axis in axes:
        size *= layout.size(axis)
    assert {len(group) for group in groups} == {size}
    for group in groups:
        assert layout.group_of(group[-1], *axes) == group


COMPARE_WITH_MEGATRON = """
from megatron_longrlvr.model.cpu.install import install
install()
from megatron.core.parallel_state import RankGenerator
from megatron_longrlvr.parallel.layout import ParallelLayout

ORDER = "tp-cp-ep-dp-pp"
LAYOUTS = [
    dict(world_size=8), dict(world_size=8, tp=2, pp=2), dict(world_size=16, tp=2, cp=2, pp=2, ep=2),
    dict(world_size=24, tp=2, cp=3, ep=6), dict(world_size=24, pp=3, cp=2, ep=4),
]
DENSE = ["tp", "cp", "dp", "pp", "dp-cp", "tp-cp", "tp-pp", "tp-dp-cp"]
EXPERT = ["tp", "ep", "dp", "tp-ep", "tp-ep-pp"]
compared = 0
for degrees in LAYOUTS:
    layout = ParallelLayout(**degrees)
    shared = dict(tp=layout.tp, pp=layout.pp, order=ORDER)
    dense = RankGenerator(ep=1, dp=layout.dp, cp=layout.cp, **shared)
    expert = RankGenerator(ep=layout.ep, dp=layout.expert_dp, cp=1, **shared)
    for generator, tokens, dp in ((dense, DENSE, "dp"), (expert, EXPERT, "expert_dp")):
        for token in tokens:
            axes = [dp if axis == "dp" else axis for axis in token.split("-")]
            ours = [list(group) for group in layout.groups(*axes)]
            theirs = generator.get_ranks(token)
            assert ours == theirs, (degrees, token, ours, theirs)
            compared += 1
print(compared)
"""


def test_groups_equal_those_of_megatron_core():
    # In a process of its own: megatron-core must find the CPU patches in place.
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPARE_WITH_MEGATRON],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(5 * (8 + 5))  # layouts times kinds of group


def test_axes_of_dense_and_expert_layers_do_not_mix():
    with pytest.raises(ValueError, match="axes dp, ep do not go together"):
        ParallelLayout(world_size=4, ep=2).groups("dp", "ep")


def test_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank 4 is not one of 4 ranks"):
        ParallelLayout(world_size=4).coordinates(4)


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        pytest.param({"tp": 3}, r"layout\.tp=3 .* = 3 does not divide the 8 ranks", id="tp"),
        pytest.param({"pp": 4, "cp": 4}, r"layout\.pp=4 \* layout\.cp=4 = 16", id="product"),
        pytest.param({"tp": 2, "ep": 3}, r"layout\.ep=3 does not divide the 4 ranks", id="ep"),
        pytest.param({"vpp": 2}, r"layout\.vpp=2 needs layout\.pp above 1", id="vpp"),
        pytest.param({"cp": 0}, r"layout\.cp=0 must be at least 1", id="zero"),
        pytest.param(
            {"sequence_parallel": True}, r"layout\.sequence_parallel=true needs layout\.tp", id="sp"
        ),
    ],
)
def test_layout_that_does_not_divide_names_the_key(degrees, message):
    with pytest.raises(ConfigError, match=message):
        ParallelLayout(world_size=8, **degrees)


MODEL = {"num_layers": 8, "num_heads": 8, "num_kv_heads": 4, "feed_forward_widths": (64,)}


@pytest.mark.parametrize(
    ("degrees", "model", "message"),
    [
        pytest.param(
            {"pp": 2, "vpp": 2},
            {"num_layers": 6},
            r"layout\.pp=2 \* layout\.vpp=2 = 4 does not divide the model's 6 layers",
            id="layers",
        ),
        pytest.param(
            {"tp": 4},
            {"num_heads": 6},
            r"layout\.tp=4 does not divide the model's 6 attention heads",
            id="heads",
        ),
        pytest.param(
            {"tp": 4},
            {"num_kv_heads": 2},
            r"layout\.tp=4 does not divide the model's 2 key/value heads",
            id="kv-heads",
        ),
        pytest.param(
            {"ep": 4},
            {"num_experts": 6},
            r"layout\.ep=4 does not divide the model's 6 experts",
            id="experts",
        ),
        pytest.param(
            {"tp": 4},
            {"feed_forward_widths": (64, 66)},
            r"layout\.tp=4 does not divide the model's 66 intermediate features",
            id="mlp",
        ),
        pytest.param({"ep": 2}, {}, r"layout\.ep=2 needs a model with experts", id="no-experts"),
        pytest.param(
            {"tp": 2},
            {"num_experts": 6},
            r"layout\.tp=2 .* needs layout\.sequence_parallel=true",
            id="experts-without-sequence-parallel",
        ),
    ],
)
def test_model_that_does_not_divide_names_the_key(degrees, model, message):
    layout = ParallelLayout(world_size=8, **degrees)
    with pytest.raises(ConfigError, match=message):
        layout.check_model(**MODEL | model)


def test_model_that_divides_is_accepted():
    layout = ParallelLayout(world_size=16, tp=4, pp=2, vpp=2, ep=2, sequence_parallel=True)
    layout.check_model(**MODEL, num_experts=4)


@pytest.mark.parametrize(
    ("degrees", "multiple"),
    [
        pytest.param({}, 1, id="one-rank"),
        pytest.param({"tp": 4}, 1, id="tp-without-sequence-parallel"),
        pytest.param({"tp": 4, "sequence_parallel": True}, 4, id="tp4-sp"),
        pytest.param({"cp": 3}, 6, id="cp3"),  # two chunks per rank
        pytest.param({"tp": 2, "cp": 2, "sequence_parallel": True}, 4, id="tp2-cp2-sp"),
        # lcm(2 * 2 chunks, 2 ranks * 3 parts) = lcm(4, 6)
        pytest.param({"tp": 3, "cp": 2, "sequence_parallel": True}, 12, id="tp3-cp2-sp"),
    ],
)
def test_sequence_multiple_cuts_into_equal_chunks_and_parts(degrees, multiple):
    assert ParallelLayout(world_size=12, **degrees).sequence_multiple == multiple


def test_config_becomes_a_layout_and_sequence_parallel_needs_tensor_parallel():
    config = LayoutConfig(tp=2, pp=2, vpp=2, cp=1, ep=2, sequence_parallel=True)
    layout = ParallelLayout.from_config(config, 8)
    assert layout == ParallelLayout(world_size=8, tp=2, pp=2, vpp=2, ep=2, sequence_parallel=True)
    assert (layout.dp, layout.expert_dp) == (2, 1)
    assert ParallelLayout.from_config(LayoutConfig(), 8).sequence_parallel is False
