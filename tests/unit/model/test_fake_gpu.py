"""On a GPU no operation of a pass would get tensors of two devices, or arguments it does not take.

Fake tensors tell, without a GPU: see tests/support/fake_gpu.py. They have no numbers.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(torch.version.cuda is None, reason="torch's CPU build knows no CUDA kernels")
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs it for real")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_everything_lies_on_the_gpu(family):
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.fake_gpu", family]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all on cuda:0"
