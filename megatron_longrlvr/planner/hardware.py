"""Accelerators and their links, as data: public figures of the manufacturer.

Rates are peaks of data sheets, dense (without structured sparsity), one direction of a link. What
of them is reached is a matter of :mod:`megatron_longrlvr.planner.rates`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_longrlvr.errors import ConfigError

GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One kind of GPU, and how GPUs of that kind are connected."""

    name: str
    memory_gib: float
    """What torch finds of it: a little below the number on the box (there 1 GB is 1000**3)."""

    memory_gb_per_s: float
    bf16_tflops: float
    fp8_tflops: float | None
    """None where the tensor cores have no FP8."""

    node_gb_per_s: float
    """To the other GPUs of the node (NVLink)."""

    network_gb_per_s: float
    """Of each GPU to other nodes: one network adapter each in the reference systems."""

    host_gb_per_s: float
    """To the host's memory (PCIe or NVLink-C2C)."""

    source: str


ACCELERATORS: Mapping[str, Accelerator] = {
    one.name: one
    for one in (
        Accelerator(
            name="a100",
            memory_gib=79.3,
            memory_gb_per_s=2039,
            bf16_tflops=312,
            fp8_tflops=None,
            node_gb_per_s=300,
            network_gb_per_s=25,
            host_gb_per_s=32,
            source="NVIDIA A100 80GB SXM data sheet; DGX A100: one HDR 200 Gb/s adapter a GPU",
        ),
        Accelerator(
            name="h100",
            memory_gib=79.1,
            memory_gb_per_s=3350,
            bf16_tflops=989,
            fp8_tflops=1979,
            node_gb_per_s=450,
            network_gb_per_s=50,
            host_gb_per_s=64,
            source="NVIDIA H100 SXM data sheet; DGX H100: one NDR 400 Gb/s adapter a GPU",
        ),
        Accelerator(
            name="h200",
            memory_gib=139.8,
            memory_gb_per_s=4800,
            bf16_tflops=989,
            fp8_tflops=1979,
            node_gb_per_s=450,
            network_gb_per_s=50,
            host_gb_per_s=64,
            source="NVIDIA H200 SXM data sheet; DGX H200: one NDR 400 Gb/s adapter a GPU",
        ),
        Accelerator(
            name="b200",
            memory_gib=178.3,
            memory_gb_per_s=8000,
            bf16_tflops=2250,
            fp8_tflops=4500,
            node_gb_per_s=900,
            network_gb_per_s=50,
            host_gb_per_s=64,
            source="NVIDIA DGX B200 data sheet: 8 GPUs, one NDR 400 Gb/s adapter each",
        ),
        Accelerator(
            name="gb200",
            memory_gib=184.0,
            memory_gb_per_s=8000,
            bf16_tflops=2500,
            fp8_tflops=5000,
            node_gb_per_s=900,
            network_gb_per_s=50,
            host_gb_per_s=450,
            source="NVIDIA GB200 NVL72 data sheet (per GPU); NVLink spans the rack, so gb200:72x2 "
            "is two racks",
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Equal nodes of equal GPUs."""

    accelerator: Accelerator
    gpus_per_node: int
    nodes: int

    @property
    def gpus(self) -> int:
        return self.gpus_per_node * self.nodes

    def link_gb_per_s(self, span: int) -> float:
        """Rate of a link within a group whose first and last rank lie ``span`` ranks apart."""
        one = self.accelerator
        return one.node_gb_per_s if span <= self.gpus_per_node else one.network_gb_per_s

    def __str__(self) -> str:
        return f"{self.accelerator.name}:{self.gpus_per_node}x{self.nodes}"


def parse_cluster(text: str) -> Cluster:
    """Read ``h100:8x16``: sixteen nodes of eight H100.

    Raises:
        ConfigError: It does not read so, or the GPU is not in the table.
    """
    match = re.fullmatch(r"([a-z0-9]+):([1-9]\d*)x([1-9]\d*)", text.lower())
    if match is None:
        raise ConfigError(f"--cluster {text!r} must read KIND:GPUSxNODES, as in h100:8x16")
    name, gpus, nodes = match.groups()
    if name not in ACCELERATORS:
        raise ConfigError(f"--cluster {text!r}: {name!r} is none of {', '.join(ACCELERATORS)}")
    return Cluster(accelerator=ACCELERATORS[name], gpus_per_node=int(gpus), nodes=int(nodes))
