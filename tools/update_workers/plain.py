"""Contender: transformers and torch, one sample after the other, logits of the response alone."""

from __future__ import annotations

import sys

import torch
from shapes import CLIP_HIGH, CLIP_LOW, LEARNING_RATE, Shape, config_of, serve, timed
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


def logprobs_of(model: LlamaForCausalLM, row: Tensor, response: int) -> Tensor:
    """[R] log-probabilities of the last tokens of a [P + R] sample."""
    logits = model(row[None], logits_to_keep=response + 1, use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, row[-response:, None])[:, 0]


def main() -> None:
    """Serve."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(**config_of(sys.argv[1], longest=int(sys.argv[2])))
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def update(rows: Tensor, old: Tensor, advantages: Tensor, response: int) -> None:
        optimizer.zero_grad()
        for row, before, advantage in zip(rows, old, advantages, strict=True):
            ratio = (logprobs_of(model, row, response) - before).exp()
            clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
            loss = -torch.minimum(ratio * advantage, clipped * advantage).sum() / old.numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def answer(shape: Shape) -> dict[str, float]:
        prompt = torch.randint(config.vocab_size, (shape.prompt,))
        responses = torch.randint(config.vocab_size, (shape.group, shape.response))
        rows = torch.cat([prompt.expand(shape.group, -1), responses], dim=1)
        old: list[Tensor] = []

        def score() -> None:
            with torch.no_grad():
                old.extend(logprobs_of(model, row, shape.response) for row in rows)

        seconds = timed(score)
        advantages = torch.randn(shape.group)
        return {
            "logprobs_s": seconds,
            "update_s": timed(lambda: update(rows, torch.stack(old), advantages, shape.response)),
        }

    serve(answer)


if __name__ == "__main__":
    main()
