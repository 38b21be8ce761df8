"""Which rank does what: the arithmetic of a parallel layout, without torch.

Ranks are numbered as megatron-core does by default ("tp-cp-ep-dp-pp", fastest first):

    rank = tp + size_tp * (cp + size_cp * (dp + size_dp * pp))

Expert layers see the same ranks cut differently: what the other layers call cp and dp is
there ep and expert_dp, ep being the faster of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from megatron_longrlvr.config.policy import LayoutConfig
from megatron_longrlvr.errors import ConfigError

Axis = Literal["tp", "cp", "dp", "pp", "ep", "expert_dp"]

# Fastest-varying first: parallel_state.RankGenerator with order "tp-cp-ep-dp-pp".
_DENSE_AXES: tuple[Axis, ...] = ("tp", "cp", "dp", "pp")
_EXPERT_AXES: tuple[Axis, ...] = ("tp", "ep", "expert_dp", "pp")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankCoordinates:
    """Place of one rank on every axis."""

    tp: int
    cp: int
    dp: int
    pp: int
    ep: int
    expert_dp: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelLayout:
    """Degrees of parallelism over a number of ranks; refuses what does not divide."""

    world_size: int
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    """Model chunks per pipeline rank."""

    cp: int = 1
    ep: int = 1
    """Expert-parallel degree; divides ``cp * dp``."""

    sequence_parallel: bool = False

    def __post_init__(self) -> None:
        for key in ("world_size", "tp", "pp", "vpp", "cp", "ep"):
            if getattr(self, key) < 1:
                raise ConfigError(f"layout.{key}={getattr(self, key)} must be at least 1")
        if self.world_size % (self.tp * self.pp * self.cp):
            raise ConfigError(
                f"layout.tp={self.tp} * layout.pp={self.pp} * layout.cp={self.cp} = "
                f"{self.tp * self.pp * self.cp} does not divide the {self.world_size} ranks "
                "of this run"
            )
        if (self.cp * self.dp) % self.ep:
            raise ConfigError(
                f"layout.ep={self.ep} does not divide the {self.cp * self.dp} ranks that "
                f"layout.tp={self.tp} and layout.pp={self.pp} leave"
            )
        if self.vpp > 1 and self.pp == 1:
            raise ConfigError(
                f"layout.vpp={self.vpp} needs layout.pp above 1; set layout.vpp=1 or more stages"
            )
        if self.sequence_parallel and self.tp == 1:
            raise ConfigError("layout.sequence_parallel=true needs layout.tp above 1")

    @classmethod
    def from_config(cls, config: LayoutConfig, world_size: int) -> Self:
        """The layout of a recipe on ``world_size`` ranks.

        Raises:
            ConfigError: The degrees do not divide the ranks; names the key.
        """
        return cls(
            world_size=world_size,
            tp=config.tp,
            pp=config.pp,
            vpp=config.vpp,
            cp=config.cp,
            ep=config.ep,
            sequence_parallel=config.sequence_parallel and config.tp > 1,
        )

    @property
    def dp(self) -> int:
        """Data-parallel degree: what the other axes leave of the ranks."""
        return self.world_size // (self.tp * self.pp * self.cp)

    @property
    def expert_dp(self) -> int:
        """Replicas of each expert."""
        return self.cp * self.dp // self.ep

    @property
    def sequence_multiple(self) -> int:
        """Number that the tokens of a packed micro-batch must be divisible by.

        Context parallelism gives each rank two of ``2 * cp`` chunks (zigzag); sequence
        parallelism cuts that rank's share into ``tp`` equal parts.
        """
        zigzag = 2 * self.cp if self.cp > 1 else 1
        return math.lcm(zigzag, self.cp * self.tp if self.sequence_parallel else 1)

    def size(self, axis: Axis) -> int:
        """Degree of an axis."""
        return int(getattr(self, axis))

    def coordinates(self, rank: int) -> RankCoordinates:
        """Place of ``rank`` on every axis.

        Raises:
            ValueError: No such rank.
        """
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is not one of {self.world_size} ranks")
        stage, place = divmod(rank, self.world_size // self.pp)
        shard, tp = place % (self.tp * self.cp * self.dp) // self.tp, place % self.tp
        return RankCoordinates(
            tp=tp,
            cp=shard % self.cp,
            dp=shard // self.cp,
            pp=stage,
            ep=shard % self.ep,
            expert_dp=shard // self.ep,
        )

    def groups(self, *axes: Axis) -> tuple[tuple[int, ...], ...]:
        """Groups of ranks that differ on ``axes`` only, each ascending, by first rank.

        Raises:
            ValueError: ``axes`` mixes cp or dp with ep or expert_dp.
        """
        fixed = _other_axes(axes)
        members: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.world_size):
            place = self.coordinates(rank)
            members.setdefault(tuple(getattr(place, axis) for axis in fixed), []).append(rank)
        return tuple(tuple(ranks) for ranks in members.values())

    def group_of(self, rank: int, *axes: Axis) -> tuple[int, ...]:
        """Ranks of the group over ``axes`` that ``rank`` belongs to, ascending."""
        fixed = _other_axes(axes)
        mine = self.coordinates(rank)
        return tuple(
            other
            for other in range(self.world_size)
            if all(getattr(self.coordinates(other), axis) == getattr(mine, axis) for axis in fixed)
        )

    def check_model(
        self,
        *,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        feed_forward_widths: Sequence[int],
        num_experts: int | None = None,
    ) -> None:
        """Refuse a model that this layout cannot cut into equal parts.

        The vocabulary is padded to a multiple of tp, so any size of it will do.

        Raises:
            ConfigError: Names the key and the size it does not divide.
        """
        if num_layers % (self.pp * self.vpp):
            raise ConfigError(
                f"layout.pp={self.pp} * layout.vpp={self.vpp} = {self.pp * self.vpp} "
                f"does not divide the model's {num_layers} layers"
            )
        for what, count in (
            ("attention heads", num_heads),
            ("key/value heads", num_kv_heads),
            *(("intermediate features", width) for width in feed_forward_widths),
        ):
            if count % self.tp:
                raise ConfigError(f"layout.tp={self.tp} does not divide the model's {count} {what}")
        if num_experts is not None and num_experts % self.ep:
            raise ConfigError(
                f"layout.ep={self.ep} does not divide the model's {num_experts} experts"
            )
        if num_experts is None and self.ep > 1:
            raise ConfigError(f"layout.ep={self.ep} needs a model with experts; set layout.ep=1")
        if num_experts is not None and self.tp > 1 and not self.sequence_parallel:
            # megatron-core's MoELayer.forward refuses to train without.
            raise ConfigError(
                f"layout.tp={self.tp} with a model with experts needs layout.sequence_parallel=true"
            )

    def __str__(self) -> str:
        degrees = [f"{axis}={self.size(axis)}" for axis in _DENSE_AXES]
        degrees += [f"vpp={self.vpp}"] if self.vpp > 1 else []
        degrees += [f"ep={self.ep}"] if self.ep > 1 else []
        degrees += ["sequence_parallel"] if self.sequence_parallel else []
        return " ".join(degrees)


def padded_lengths(lengths: Sequence[int], *, cp: int, multiple: int) -> list[int]:
    """Lengths after padding: each to ``2 * cp`` parts, then one more to fill the micro-batch.

    Args:
        lengths: Tokens of each segment.
        cp: Context-parallel degree.
        multiple: The total must divide by this (``ParallelLayout.sequence_multiple``).
    """
    part = 2 * cp if cp > 1 else 1
    padded = [-(-length // part) * part for length in lengths]
    missing = -sum(padded) % multiple
    return padded + ([missing] if missing else [])


def _other_axes(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    for family in (_DENSE_AXES, _EXPERT_AXES):
        if set(axes) <= set(family):
            return tuple(axis for axis in family if axis not in axes)
    raise ValueError(
        f"axes {', '.join(axes)} do not go together: use some of {', '.join(_DENSE_AXES)} "
        f"or some of {', '.join(_EXPERT_AXES)}"
    )
