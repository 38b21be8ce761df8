"""Which GPU a process takes, and what it could reach; CUDA's answers are given."""

import pytest
import torch

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.parallel import device
from megatron_longrlvr.parallel.device import peak_tflops, select_local_device


@pytest.fixture
def cuda(monkeypatch):
    """Pretends that there are two GPUs, and keeps the one that was chosen."""
    chosen = []
    monkeypatch.setattr(device, "has_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_process_takes_the_gpu_of_its_local_rank(cuda, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    select_local_device()
    monkeypatch.delenv("LOCAL_RANK")
    select_local_device()
    assert cuda == [1, 0]


def test_local_rank_without_a_gpu_is_refused(cuda, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="LOCAL_RANK=2 has no GPU: this process sees 2"):
        select_local_device()
    assert not cuda


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        # Fewer multiprocessors and lower clocks than the modules of the table.
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("Tesla T4", None),
    ],
)
def test_peak_is_that_of_the_very_board(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_tflops() == expected
