"""The CPU patches: listed, in time, once, and absent where CUDA is present.

Each case runs in a process of its own, because patches are for the life of a process. That the
patched megatron-core computes the right numbers is the promise of the distributed tests.
"""

import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="patches are for machines without"
)

PROCESS_TIMEOUT_S = 240  # imports torch, in its CUDA build perhaps, and megatron-core; busy machine
INSTALL = "from megatron_longrlvr.model.cpu.install import install, installed_patches\n"


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS_TIMEOUT_S,
    )


def assert_passes(code):
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_patches_are_listed_with_reasons_and_made_once():
    assert_passes(
        INSTALL
        + """
from megatron_longrlvr.model.cpu.install import describe_patches
assert installed_patches() == ()
names = install()
assert install() == names == installed_patches()
assert len(set(names)) == len(names)
for expected in (
    "torch.cuda.current_device",
    "torch.Tensor.cuda",
    "torch.compile",
    "megatron.core.tensor_parallel.random._set_cuda_rng_state",
    "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer.load_state_dict",
    "megatron.core.transformer.moe.moe_utils.maybe_move_tensor_to_cpu",
):
    assert expected in names, (expected, names)
lines = describe_patches()
assert [line.split(": ")[0] for line in lines] == list(names)
assert all(len(line.split(": ", 1)[1]) > 10 for line in lines)
"""
    )


def test_late_install_says_what_to_call_first():
    result = run(
        "import sys, types\n"
        'sys.modules["megatron.core"] = types.ModuleType("megatron.core")\n' + INSTALL + "install()"
    )
    assert result.returncode == 1
    assert "RuntimeError: megatron.core was imported before the CPU patches; call" in result.stderr


def test_nothing_is_patched_where_cuda_is_present():
    assert_passes(
        """
import torch
before = {name: getattr(torch, name) for name in ("zeros", "tensor", "arange")}
to, stream, device = torch.Tensor.to, torch.cuda.Stream, torch.cuda.current_device
torch.cuda.is_available = lambda: True
"""
        + INSTALL
        + """
import sys
assert install() == () == installed_patches()
assert all(getattr(torch, name) is function for name, function in before.items())
assert (torch.Tensor.to, torch.cuda.Stream, torch.cuda.current_device) == (to, stream, device)
assert "megatron.core" not in sys.modules
"""
    )


def test_tensors_meant_for_cuda_land_on_the_cpu_and_others_stay_where_asked():
    assert_passes(
        """
import torch
from megatron_longrlvr.model.cpu.factories import patch_factories
patch_factories()
assert torch.zeros(2, device="cuda").device.type == "cpu"
assert torch.arange(3, device=torch.device("cuda", 1)).tolist() == [0, 1, 2]
assert torch.empty(2, pin_memory=True).device.type == "cpu"
assert torch.ones(2).to("cuda", torch.float64).dtype == torch.float64
assert torch.ones(2).to(device="cuda").device.type == "cpu"
assert torch.ones(2).to(torch.int64).dtype == torch.int64
assert torch.zeros(2, device="meta").device.type == "meta"
assert torch.ones(2).to("meta").device.type == "meta"
assert torch.ones(2).type() == "torch.FloatTensor"
"""
    )


def test_scripted_functions_may_call_the_factories():
    assert_passes(
        """
import linecache
import torch
from megatron_longrlvr.model.cpu.factories import patch_factories
patch_factories()
source = "def ramp(x):\\n    return torch.ones_like(x) + torch.zeros(2) + torch.arange(2)\\n"
linecache.cache["ramp.py"] = (len(source), None, source.splitlines(True), "ramp.py")
exec(compile(source, "ramp.py", "exec"))
assert torch.jit.script(ramp)(torch.zeros(2)).tolist() == [1.0, 2.0]
"""
    )


def test_seeding_and_random_states_are_those_of_the_cpu_generator():
    assert_passes(
        """
import torch
from megatron_longrlvr.model.cpu.cuda_api import patch_cuda_api
torch.manual_seed(3)
expected = torch.rand(4).tolist()
patch_cuda_api()
torch.manual_seed(3)
state = torch.cuda.get_rng_state()
assert torch.rand(4).tolist() == expected
torch.cuda.set_rng_state(state)
assert torch.rand(4).tolist() == expected
torch.cuda.manual_seed(3)
assert torch.rand(4).tolist() == expected
"""
    )


def test_a_default_device_still_reaches_the_factories():
    # transformers builds models under torch.device("meta"); buffers made on another device than
    # asked for were left uninitialised there.
    assert_passes(
        INSTALL
        + """
import torch
install()
with torch.device("meta"):
    assert torch.arange(3).is_meta and torch.zeros(2).is_meta and torch.ones(2).is_meta
assert torch.arange(3).device.type == "cpu"
"""
    )
