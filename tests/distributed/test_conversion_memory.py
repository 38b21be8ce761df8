"""Conversion holds a little memory, less than one large tensor, however deep the model is.

Looked at is what no file backs (RssAnon), every millisecond from within a process that converts a
model of 2 layers and one of 6 whose embedding is 32 MiB. Holding a whole tensor would show, and so
would holes that blocks leave in the heap. Not covered: peaks shorter than a millisecond.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIB = 2**20
# A block of 8 MiB, a piece and a buffer of 1 MiB, and what libraries take when first used.
BOUND_BYTES = 24 * MIB
# Indices and plans of 4 more layers take some 100 KiB; a heap is rounded to a block.
FLAT_BYTES = 8 * MIB

CONVERT = """
import json, sys, threading
from pathlib import Path
import torch
from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.megatron_to_hf import plan_export, run_export
from megatron_longrlvr.conversion.ranks import Ranks
from megatron_longrlvr.conversion.safetensors_writer import create_file, plan_file
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import hf_shapes

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024,
    "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 4,
    "vocab_size": 16384, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False,
}

def anonymous_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def peak(convert):
    highest, done = 0, threading.Event()
    def watch():
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, anonymous_bytes())
    watcher = threading.Thread(target=watch)
    watcher.start()
    convert()
    done.set()
    watcher.join()
    return highest - at_start

def run(folder, num_layers):
    (folder / "hf").mkdir(parents=True)
    (folder / "hf/config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": num_layers}))
    shapes = hf_shapes(read_model_spec(folder / "hf"))
    plan = plan_file("model.safetensors", {n: (s, torch.bfloat16) for n, s in shapes.items()})
    create_file(folder / "hf", plan)  # zeros, which take no disk
    importing = plan_import(folder / "hf", piece_bytes=2**20)
    of_import = peak(lambda: run_import(importing, folder / "megatron", ranks=Ranks()))
    exporting = plan_export(find_source(folder / "megatron"))
    of_export = peak(lambda: run_export(exporting, folder / "back", ranks=Ranks()))
    return of_import, of_export

at_start = anonymous_bytes()
print(json.dumps([run(Path(sys.argv[1]) / str(layers), layers) for layers in (2, 6)]))
"""


def test_memory_is_small_and_does_not_grow_with_the_depth(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", CONVERT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    of_2_layers, of_6_layers = json.loads(process.stdout)
    for shallow, deep in zip(of_2_layers, of_6_layers, strict=True):
        assert MIB < deep < BOUND_BYTES  # more than nothing: something was seen
        assert deep - shallow < FLAT_BYTES
