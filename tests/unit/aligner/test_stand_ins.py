"""Of a NeMo that imports in part, NeMo-Aligner gets every name that imports, and its loop stands.

The NeMo here is a small one on disk, broken in the ways in which the real one breaks beside newer
libraries. Runs with the real one are recorded in ``tests/records/nemo.json``.
"""

import json
import os
import subprocess
import sys

import pytest

from megatron_longrlvr.aligner.presence import Presence
from megatron_longrlvr.aligner.stand_ins import (
    ACTOR_NAMES,
    NEMO_NAMES,
    TENSORRT_LLM_NAMES,
    StandIn,
    absent,
    describe_stand_ins,
)

PROCESS_TIMEOUT_S = 240  # imports torch and megatron-core; busy machine
MEGATRON = "nemo.collections.nlp.modules.common.megatron"
SOURCES = {
    "nemo_toolkit-2.4.1.dist-info/METADATA": "Name: nemo_toolkit\nVersion: 2.4.1\n",
    "nemo/__init__.py": "",
    "nemo/utils/__init__.py": "import logging\nclass AppState: ...\n",
    "nemo/utils/timers.py": "class NamedTimer: ...\n",
    "nemo/utils/exp_manager.py": "raise RuntimeError('made for another torch')\n",
    "nemo/collections/__init__.py": "",
    # A package that does not import, around modules that do.
    "nemo/collections/nlp/__init__.py": "from transformers import GoneSinceThen\n",
    "nemo/collections/nlp/modules/__init__.py": "",
    "nemo/collections/nlp/modules/common/__init__.py": "import nemo_needs_this\n",
    "nemo/collections/nlp/modules/common/megatron/__init__.py": "",
    "nemo/collections/nlp/modules/common/megatron/utils.py": "def get_iterator_k_split(): ...\n",
    # A module where NeMo-Aligner looks for a package.
    "nemo/collections/nlp/parts.py": "",
}
REAL = {
    "nemo.utils.logging",
    "nemo.utils.AppState",
    "nemo.utils.timers.NamedTimer",
    f"{MEGATRON}.utils.get_iterator_k_split",
}
REPORT = """
import json
from dataclasses import asdict
from megatron_longrlvr.aligner import library
from nemo_aligner.algorithms import ppo
from nemo_aligner.utils import distributed
print(json.dumps({
    "presence": library.PRESENCE.describe(),
    "stand_ins": [asdict(one) for one in library.STAND_INS],
    "split": ppo.get_iterator_k_split.__code__.co_filename,
    "timer": distributed.NamedTimer.__module__,
}))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What a fresh process finds that has the small NeMo."""
    folder = tmp_path_factory.mktemp("packages")
    for name, source in SOURCES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    result = subprocess.run(
        [sys.executable, "-c", REPORT],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS_TIMEOUT_S,
    )
    assert result.returncode == 0, result.stderr
    return {"folder": str(folder), **json.loads(result.stdout.splitlines()[-1])}


def test_every_name_that_imports_is_real(report):
    tables = (NEMO_NAMES, TENSORRT_LLM_NAMES, ACTOR_NAMES)
    wanted = {f"{m}.{name}" for table in tables for m, values in table.items() for name in values}
    assert {one["name"] for one in report["stand_ins"]} == wanted - REAL
    assert report["split"].startswith(report["folder"])
    assert report["timer"] == "nemo.utils.timers"
    assert report["presence"].startswith("nemo-aligner 0.7.0, NeMo 2.4.1")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nemo.utils.exp_manager.NeMoModelCheckpoint", "RuntimeError: made for another torch"),
        (f"{MEGATRON}.utils.get_ltor_masks_and_position_ids", f"{MEGATRON}.utils has no such name"),
        (f"{MEGATRON}.module.Float16Module", "ModuleNotFoundError: No module named"),
        (
            "nemo.collections.nlp.parts.utils_funcs.torch_dtype_from_precision",
            "ModuleNotFoundError: No module named",
        ),
        ("nemo_aligner.utils.trt_llm.GPTGenerateTRTLLM", "TensorRT-LLM is not installed"),
    ],
)
def test_each_other_name_has_its_reason(report, name, reason):
    reasons = {one["name"]: one["reason"] for one in report["stand_ins"]}
    assert reasons[name].startswith(reason)


def test_the_log_gives_reasons_only_where_something_is_real():
    stand_ins = (StandIn(name="nemo.a.B", reason="broken"), StandIn(name="nemo.a.C", reason="gone"))
    installed = Presence(aligner="0.7.0", nemo="2.4.1", tensorrt_llm=None)
    first, *others = describe_stand_ins(installed, stand_ins)
    assert first.endswith(", 2 stand-in names")
    assert others == ["stand-in for nemo.a.B: broken", "stand-in for nemo.a.C: gone"]
    nothing = Presence(aligner="0.7.0", nemo=None, tensorrt_llm=None)
    assert len([*describe_stand_ins(nothing, stand_ins)]) == 1


def test_a_name_that_does_no_work_says_so():
    with pytest.raises(RuntimeError, match="Checkpoint is NeMo's, which is not installed or does"):
        absent("Checkpoint")()
