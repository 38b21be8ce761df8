"""What a test under tests/gpu needs, and why it is skipped where that is not there."""

from __future__ import annotations

import importlib.util

import pytest

from megatron_longrlvr.parallel.device import has_cuda
from tests.support.gpu_machine import missing

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="no CUDA device"),
]


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip where ``gpu_machine`` misses one of them."""
    lacking = missing(names)
    return pytest.mark.skipif(lacking is not None, reason=f"needs {lacking}")


def needs_package(name: str) -> pytest.MarkDecorator:
    """Skip where a package is not installed."""
    is_missing = importlib.util.find_spec(name.split(".")[0]) is None
    return pytest.mark.skipif(is_missing, reason=f"{name} is not installed")
