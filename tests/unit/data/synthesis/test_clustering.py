"""Topics of the corpus come out as clusters, by the paper's settings; vectors have length 1."""

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from megatron_longrlvr.config.synthesis import ClusterConfig, EncoderConfig, TfidfSvdConfig
from megatron_longrlvr.data.synthesis.clustering import cluster_chunks
from megatron_longrlvr.data.synthesis.embedders.embedder import build_embedder
from megatron_longrlvr.errors import ConfigError, DataError
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.support.synthesis_corpus import PARAGRAPHS, TOPICS, make_paragraphs

# fp32 sums of some dozen products, whose order depends on the padding.
FP32_ATOL = 1e-5


def test_topics_are_clusters():
    embedder = build_embedder(TfidfSvdConfig(kind="tfidf_svd"))
    vectors = embedder.embed([*make_paragraphs(3), "Nothing akin stands elsewhere."])
    assert np.allclose(np.linalg.norm(vectors[:-1], axis=1), 1)
    size = len(TOPICS)
    expected = [tuple(range(topic, PARAGRAPHS * size, size)) for topic in range(size)]
    assert cluster_chunks(vectors, ClusterConfig()) == expected


@pytest.mark.parametrize("chunks", [["one"], ["a b", "a b"], ["1", "?"] * 6], ids=str)
def test_a_document_with_little_to_go_by_has_no_cluster_and_no_error(chunks):
    vectors = build_embedder(TfidfSvdConfig(kind="tfidf_svd")).embed(chunks)
    assert len(vectors) == len(chunks)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all(np.isclose(lengths, 1) | (lengths == 0))
    assert cluster_chunks(np.zeros((6, 3), np.float32), ClusterConfig()) == []


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = save_byte_tokenizer(tmp_path_factory.mktemp("encoder"))
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_chunk_has_the_same_vector_alone_and_among_longer_ones(encoder_folder, pooling):
    settings = {"kind": "encoder", "path": str(encoder_folder), "pooling": pooling}
    chunks = ["a short one", "one that is a good deal longer", "mid-sized text"]
    together = build_embedder(EncoderConfig(**settings, batch_size=3)).embed(chunks)
    single = build_embedder(EncoderConfig(**settings, batch_size=1))
    alone = np.concatenate([single.embed([chunk]) for chunk in chunks])
    assert together.shape == (3, 16)
    np.testing.assert_allclose(together, alone, atol=FP32_ATOL)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=FP32_ATOL)


def test_what_the_encoder_cannot_take_is_an_error_that_names_the_key(encoder_folder, tmp_path):
    embedder = build_embedder(EncoderConfig(kind="encoder", path=str(encoder_folder), max_tokens=4))
    with pytest.raises(DataError, match=r"embed\.max_tokens=4"):
        embedder.embed(["too long for it"])
    with pytest.raises(ConfigError, match=r"embed\.path"):
        build_embedder(EncoderConfig(kind="encoder", path=str(tmp_path / "none")))
