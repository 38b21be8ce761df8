"""Parameters are cut into buckets in order, and those of one rank come out without a copy too many.

Gathering over several ranks, and the memory it takes, are tested under tests/distributed.
"""

import torch

from megatron_longrlvr.model import hf_gather
from megatron_longrlvr.model.hf_gather import gather_hf_tensors, split_buckets
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import rules_for_model, shard
from tests.support.tiny_models import save_tiny_model


class Sized:
    """Stands in a bucket with a number of elements."""

    def __init__(self, numel):
        self.numel = numel


def sizes(*numels, limit):
    buckets = split_buckets([Sized(numel) for numel in numels], limit)
    return [[one.numel for one in bucket] for bucket in buckets]


def test_buckets_stay_within_the_limit_and_keep_the_order():
    assert sizes(4, 3, 3, 5, 1, limit=10) == [[4, 3, 3], [5, 1]]


def test_item_above_the_limit_has_a_bucket_of_its_own():
    assert sizes(2, 11, 2, 2, limit=10) == [[2], [11], [2, 2]]
    assert sizes(limit=10) == []


class Quantized(torch.Tensor):
    """Half of the numbers that it stands for; what is made of it is one, too."""


def dequantize(quantized):
    return quantized.as_subclass(torch.Tensor) * 2


def tiny_parameters(folder):
    model = save_tiny_model(folder, "qwen3", num_layers=1)
    spec = read_model_spec(folder)
    theirs = dict(model.named_parameters())
    parameters = {
        rule.megatron_name: torch.nn.Parameter(
            shard(
                rule, [theirs[name].detach() for name in rule.hf_names], spec, tp_rank=0, tp_size=1
            )
        )
        for rule in rules_for_model(spec)
    }
    return theirs, parameters, spec


def export(parameters, spec):
    groups = {"tp": None, "ep": None, "pp": None}
    return gather_hf_tensors(parameters, spec, groups=groups, bucket_bytes=1000)


def test_weights_held_in_fp8_are_exported_as_the_numbers_they_stand_for(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_gather, "is_float8tensor", lambda each: isinstance(each, Quantized))
    monkeypatch.setattr(hf_gather, "dequantize_fp8_tensor", dequantize)
    theirs, parameters, spec = tiny_parameters(tmp_path)
    held = {
        name: (parameter.detach() / 2).as_subclass(Quantized) if parameter.dim() > 1 else parameter
        for name, parameter in parameters.items()
    }
    for name, tensor in export(held, spec):
        assert type(tensor) is torch.Tensor
        assert torch.equal(tensor, theirs[name]), name


def test_exported_tensors_share_no_memory_with_the_parameters(tmp_path):
    theirs, parameters, spec = tiny_parameters(tmp_path)
    for name, tensor in export(parameters, spec):
        assert torch.equal(tensor, theirs[name]), name
        assert not tensor.requires_grad
        tensor.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in parameters.values())
