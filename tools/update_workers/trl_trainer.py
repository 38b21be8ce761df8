"""Contender: TRL's GRPOTrainer, its own log-probability pass and its own loss.

Runs in an environment that has trl; without gradient checkpointing, fp32. Gradients are accumulated
over batches of one sample: a batch of the whole group takes several times the memory.
"""

from __future__ import annotations

import sys
import tempfile

import torch
from datasets import Dataset
from shapes import CLIP_HIGH, CLIP_LOW, LEARNING_RATE, Shape, config_of, serve, timed
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer


def build(model: str, longest: int, folder: str) -> GRPOTrainer:
    """A trainer with random weights and a tokenizer of one word."""
    words = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="x", eos_token="x")
    config = LlamaConfig(**config_of(model, longest=longest))
    config._attn_implementation = "sdpa"
    arguments = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=8,
        num_generations=8,
        learning_rate=LEARNING_RATE,
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        loss_type="bnpo",
    )
    return GRPOTrainer(
        model=LlamaForCausalLM(config).float(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 8}),
        processing_class=tokenizer,
    )


def main() -> None:
    """Serve."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(sys.argv[1], int(sys.argv[2]), folder)
    model = trainer.model
    model.train()
    vocabulary = model.config.vocab_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def update(inputs: dict[str, Tensor]) -> None:
        group = len(inputs["prompt_ids"])
        trainer.current_gradient_accumulation_steps = group
        optimizer.zero_grad()
        for index in range(group):
            one = {
                name: tensor[index : index + 1] if tensor.dim() else tensor
                for name, tensor in inputs.items()
            }
            trainer.compute_loss(model, one).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def score(inputs: dict[str, Tensor]) -> Tensor:
        rows = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        width = inputs["completion_ids"].size(1)
        with torch.no_grad():
            found = trainer._get_per_token_logps_and_entropies(
                model, rows, torch.ones_like(rows), width, batch_size=1
            )
        return found[0].view(len(rows), width)

    def answer(shape: Shape) -> dict[str, float]:
        prompts = torch.randint(vocabulary, (shape.prompt,)).expand(shape.group, -1).contiguous()
        responses = torch.randint(vocabulary, (shape.group, shape.response))
        inputs = {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": responses,
            "completion_mask": torch.ones_like(responses),
            "advantages": torch.randn(shape.group),
            "num_items_in_batch": torch.tensor(float(responses.numel())),
        }
        old: list[Tensor] = []
        seconds = timed(lambda: old.append(score(inputs)))
        inputs["old_per_token_logps"] = old[0]
        return {"logprobs_s": seconds, "update_s": timed(lambda: update(inputs))}

    serve(answer)


if __name__ == "__main__":
    main()
