"""Vectors of chunks from an encoder's folder and from a server that speaks OpenAI's embeddings.

Promise: each chunk gets its own vector, of length 1, whatever it was batched with and in whatever
order replies come; what is no vector for each chunk ends the stage instead of being filled in. The
encoder has the architecture of BGE-M3 (XLM-RoBERTa), tiny, with random weights. Not covered: what
real embeddings are worth.
"""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from megatron_longrlvr.config.chat import ChatBreakerConfig, ChatEndpointConfig, ChatRetryConfig
from megatron_longrlvr.config.synthesis import EmbeddingServerConfig, EncoderConfig
from megatron_longrlvr.data.synthesis.embedders.embedder import build_embedder
from megatron_longrlvr.errors import ConfigError, DataError, ServersUnavailable
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.support.http_server import HttpReply, HttpServer

CHUNKS = [f"{'x' * (7 * index % 40)} chunk {index}" for index in range(11)]
# fp32; a batch is summed in another order than a chunk alone.
ATOL = 1e-5


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    save_byte_tokenizer(path)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=260,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    XLMRobertaModel(config).eval().save_pretrained(path)
    return path


def hidden_states(path, text):
    """[T, hidden] float64 of one text by itself, straight from transformers."""
    inputs = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")
    with torch.inference_mode():
        return XLMRobertaModel.from_pretrained(path).eval()(**inputs).last_hidden_state[0].double()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_encoder_pools_each_chunk_as_if_it_were_alone(encoder, pooling):
    config = EncoderConfig(kind="encoder", path=str(encoder), pooling=pooling, batch_size=4)
    vectors = build_embedder(config).embed(CHUNKS)
    for chunk, vector in zip(CHUNKS, vectors, strict=True):
        states = hidden_states(encoder, chunk)
        expected = states[0] if pooling == "cls" else states.mean(0)
        expected = expected / expected.norm()
        np.testing.assert_allclose(vector, expected.numpy(), atol=ATOL)


def test_prefix_stands_before_each_chunk(encoder):
    with_prefix = EncoderConfig(kind="encoder", path=str(encoder), prefix="query: ")
    without = EncoderConfig(kind="encoder", path=str(encoder))
    expected = build_embedder(without).embed([f"query: {chunk}" for chunk in CHUNKS])
    np.testing.assert_array_equal(build_embedder(with_prefix).embed(CHUNKS), expected)


def test_chunk_above_the_limit_is_not_cut(encoder):
    config = EncoderConfig(kind="encoder", path=str(encoder), max_tokens=20)
    with pytest.raises(DataError, match=r"above embed.max_tokens=20; make chunks smaller"):
        build_embedder(config).embed(CHUNKS)


def test_folder_without_an_encoder_is_named(tmp_path):
    for path, message in ((tmp_path / "absent", "no folder"), (tmp_path, "no encoder in")):
        with pytest.raises(ConfigError, match=rf"embed.path: {message}"):
            build_embedder(EncoderConfig(kind="encoder", path=str(path)))


class EmbeddingServer(HttpServer):
    """Gives every text a vector of its own; what ``spoil`` returns goes out instead."""

    def __init__(self, spoil=lambda _rows, _number: None):
        super().__init__()
        self.spoil = spoil
        self.requests = []

    async def answer(self, route, headers, payload):  # noqa: ARG002
        if route != "POST /v1/embeddings":
            return HttpReply(status=404)
        self.requests.append(payload)
        rows = [
            {"index": index, "embedding": vector_of(text)}
            for index, text in enumerate(payload["input"])
        ]
        spoiled = self.spoil(rows, len(self.requests))
        if isinstance(spoiled, HttpReply):
            return spoiled
        # The protocol says which vector belongs to which text; their order says nothing.
        return HttpReply(body=json.dumps({"data": (spoiled or rows)[::-1]}).encode())


def vector_of(text):
    """Not of length 1; for chunk 5, which says nothing, of length 0."""
    number = int(text.rpartition(" ")[2])
    return [0.0] * 3 if number == 5 else [1.0 + number, 2.0, float(len(text))]


def server_config(server, **retry):
    retry = {"backoff_s": 0.01, "max_attempts": 3, **retry}
    return EmbeddingServerConfig(
        kind="server",
        model="embedder",
        batch_size=4,
        endpoints=[ChatEndpointConfig(url=f"{server.address}/v1")],
        retry=ChatRetryConfig(**retry),
        breaker=ChatBreakerConfig(failures=100),
    )


def embed(server):
    embedder = build_embedder(server_config(server))
    try:
        return embedder.embed(CHUNKS)
    finally:
        embedder.close()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _rows, _number: None, id="well"),
        pytest.param(
            lambda _rows, number: HttpReply(status=503) if number % 2 else None, id="every-other"
        ),
    ],
)
def test_server_gives_each_chunk_its_vector(spoil):
    with EmbeddingServer(spoil) as server:
        vectors = embed(server)
    expected = np.array([vector_of(chunk) for chunk in CHUNKS])
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1)
    np.testing.assert_allclose(vectors, expected, atol=ATOL)
    assert {len(request["input"]) for request in server.requests} == {4, 3}
    assert {request["model"] for request in server.requests} == {"embedder"}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda rows, _number: rows[:-1], id="one-missing"),
        pytest.param(
            lambda rows, _number: [{**row, "embedding": [float("nan")] * 3} for row in rows],
            id="not-a-number",
        ),
        pytest.param(
            lambda rows, _number: [
                {**row, "embedding": row["embedding"][row["index"] :]} for row in rows
            ],
            id="other-lengths",
        ),
        pytest.param(lambda _rows, _number: HttpReply(status=500), id="down"),
    ],
)
def test_without_a_vector_for_each_chunk_the_stage_ends(spoil):
    with EmbeddingServer(spoil) as server, pytest.raises(ServersUnavailable, match="no embeddings"):
        embed(server)
    # Three attempts of the first batch that failed; what was under way of others is given up.
    assert 3 <= len(server.requests) <= 3 * 3
