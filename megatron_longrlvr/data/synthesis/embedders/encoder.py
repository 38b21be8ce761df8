"""An encoder from a Hugging Face folder, such as BGE-M3, run here by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_longrlvr.config.synthesis import EncoderConfig
from megatron_longrlvr.data.synthesis.embedders.embedder import Vectors, unit_length
from megatron_longrlvr.errors import ConfigError, DataError


class EncoderEmbedder:
    """Pools the last hidden states of an encoder."""

    def __init__(self, config: EncoderConfig) -> None:
        """Load tokenizer and weights; the hub is never asked, the folder's code never run.

        Raises:
            ConfigError: The folder holds no encoder.
        """
        from transformers import AutoModel, AutoTokenizer

        if not Path(config.path).is_dir():
            raise ConfigError(f"embed.path: no folder {config.path}")
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(config.path, **options)
            self._model = AutoModel.from_pretrained(config.path, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"embed.path: no encoder in {config.path}: {error}") from error
        if self._tokenizer.pad_token is None:
            # Any will do: the model is told to look past it.
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        self._model.to(config.device).eval()
        self._config = config

    def embed(self, chunks: Sequence[str]) -> Vectors:
        # By length, so that little is padded; the order of the result is that of the chunks.
        order = sorted(range(len(chunks)), key=lambda index: len(chunks[index]))
        pooled: list[Any] = [None] * len(chunks)
        for start in range(0, len(order), self._config.batch_size):
            batch = order[start : start + self._config.batch_size]
            states = self._encode([self._config.prefix + chunks[index] for index in batch])
            for index, state in zip(batch, states, strict=True):
                pooled[index] = state
        return unit_length(np.stack(pooled).astype(np.float64))

    def close(self) -> None:
        """Nothing is held."""

    def _encode(self, texts: Sequence[str]) -> Any:  # noqa: ANN401 - a numpy array
        import torch

        inputs = self._tokenizer(list(texts), padding=True, return_tensors="pt")
        longest = inputs["input_ids"].shape[1]
        if longest > self._config.max_tokens:
            raise DataError(
                f"a chunk has {longest} tokens for the encoder, above embed.max_tokens="
                f"{self._config.max_tokens}; make chunks smaller (chunk.max_tokens)"
            )
        inputs = {name: value.to(self._config.device) for name, value in inputs.items()}
        with torch.inference_mode():
            states = self._model(**inputs).last_hidden_state
            if self._config.pooling == "cls":
                pooled = states[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
                pooled = (states * mask).sum(1) / mask.sum(1)
        return pooled.float().cpu().numpy()
