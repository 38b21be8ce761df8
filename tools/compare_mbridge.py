"""Time loading a Hugging Face folder and writing it back, ours and mbridge's, in one process.

    mb/bin/python tools/compare_mbridge.py models/smollm2/hf --output tests/records/mbridge.json

Needs an interpreter that has mbridge beside this package. mbridge names the weights of Transformer
Engine's layers, which CPU does not have, so it fills a module that has nothing but these weights;
ours fills the policy. Both load into memory on one rank and write a folder, in turn, and both
folders are compared with the first one, tensor by tensor. The folder's files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.build import build_chunks
from megatron_longrlvr.model.hf_export import export_policy
from megatron_longrlvr.model.hf_weights import load_hf_weights
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.spec import ModelSpec, read_model_spec
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout


class TransformerEngineNames(torch.nn.Module):
    """Weights of a dense model under the names of megatron-core with Transformer Engine."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        attended = spec.num_heads * spec.head_dim
        qkv = attended + 2 * spec.num_kv_heads * spec.head_dim
        layer = {
            "self_attention.linear_qkv.layer_norm_weight": (spec.hidden_size,),
            "self_attention.linear_qkv.weight": (qkv, spec.hidden_size),
            "self_attention.linear_proj.weight": (spec.hidden_size, attended),
            "mlp.linear_fc1.layer_norm_weight": (spec.hidden_size,),
            "mlp.linear_fc1.weight": (2 * spec.intermediate_size, spec.hidden_size),
            "mlp.linear_fc2.weight": (spec.hidden_size, spec.intermediate_size),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "embedding.word_embeddings.weight": (spec.vocab_size, spec.hidden_size),
            "decoder.final_layernorm.weight": (spec.hidden_size,),
        }
        if not spec.tie_word_embeddings:
            shapes["output_layer.weight"] = (spec.vocab_size, spec.hidden_size)
        for index in range(spec.num_layers):
            shapes |= {f"decoder.layers.{index}.{name}": shape for name, shape in layer.items()}
        for name, shape in shapes.items():
            self._put(name.split("."), torch.empty(shape, dtype=dtype))
        self.decoder.layers = torch.nn.ModuleList(self.decoder.layers.children())
        for number, module in enumerate(self.decoder.layers, start=1):
            module.layer_number = number

    def _put(self, path: list[str], value: torch.Tensor) -> None:
        module: torch.nn.Module = self
        for name in path[:-1]:
            if name not in module._modules:
                module.add_module(name, torch.nn.Module())
            module = module.get_submodule(name)
        module.register_parameter(path[-1], torch.nn.Parameter(value, requires_grad=False))


def ours(folder: Path, policy: Policy) -> tuple[Callable[[], None], Callable[[Path], None]]:
    """Our two directions on a policy that exists."""

    def load() -> None:
        load_hf_weights(policy.chunks, folder, policy.spec, tp_rank=0, tp_size=1)

    def save(target: Path) -> None:
        export_policy(policy, target, tokenizer_folder=folder)

    return load, save


def theirs(folder: Path, spec: ModelSpec) -> tuple[Callable[[], None], Callable[[Path], None]]:
    """Both directions of mbridge on weights that exist."""
    import mbridge

    bridge = mbridge.AutoBridge.from_pretrained(str(folder), dtype=torch.bfloat16)
    models = [TransformerEngineNames(spec, torch.bfloat16)]
    for module in models:
        # What its own constructor does beside building the network.
        module.config = bridge.config
    bridge.vocab_size = bridge.padded_vocab_size = spec.vocab_size

    def load() -> None:
        with torch.no_grad():
            bridge.load_weights(models, str(folder))

    def save(target: Path) -> None:
        bridge.save_weights(models, str(target))

    return load, save


def timed(action: Callable[[], None]) -> float:
    """Seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def differing(folder: Path, other: Path) -> list[str]:
    """Names of tensors that are not the same in both."""
    first, second = (
        {k: v for f in one.glob("*.safetensors") for k, v in load_file(f).items()}
        for one in (folder, other)
    )
    return sorted(
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or not torch.equal(first[name], second[name])
    )


def main() -> None:
    """Alternate and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="dense bfloat16 model without qkv bias")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    groups = start_process_groups(ParallelLayout(world_size=1), seed=0)
    spec = read_model_spec(arguments.folder)
    model = ModelConfig(path=str(arguments.folder), dtype="bf16")
    policy = Policy(spec=spec, groups=groups, model=model, chunks=build_chunks(spec, groups, model))
    contenders = {
        "ours": ours(arguments.folder, policy),
        "mbridge": theirs(arguments.folder, spec),
    }
    rows: dict[str, dict[str, list[float]]] = {
        name: {"load_s": [], "save_s": []} for name in contenders
    }
    different: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder.parent) as scratch:
        for _ in range(arguments.rounds):
            for name, (load, save) in contenders.items():
                target = Path(scratch) / name
                shutil.rmtree(target, ignore_errors=True)
                rows[name]["load_s"].append(timed(load))
                rows[name]["save_s"].append(timed(lambda save=save, to=target: save(to)))
                different[name] = differing(arguments.folder, target)
    ratios = {
        step: statistics.median(
            b / a for a, b in zip(rows["ours"][step], rows["mbridge"][step], strict=True)
        )
        for step in ("load_s", "save_s")
    }
    header = record_header(
        f"seconds to load {arguments.folder.parent.name} into memory and to write it back",
        note="one thread",
        more_libraries=["mbridge"],
    )
    record = {**header, "seconds": rows, "mbridge_over_ours": ratios, "that_differ": different}
    text = json.dumps(record, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
