"""Topics of the corpus come out as clusters, by the paper's settings; vectors have length 1."""

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN
from transformers import BertConfig, BertModel

from megatron_longrlvr.config.synthesis import ClusterConfig, EncoderConfig, TfidfSvdConfig
from megatron_longrlvr.data.synthesis.clustering import cluster_chunks, cluster_distances
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


def distances_of(places):
    points = np.array(places, dtype=float)
    return np.abs(points[:, None] - points[None, :])


def line_of(*starts):
    """Four points, 0.01 apart, from each start."""
    return [start + 0.01 * step for start in starts for step in range(4)]


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        pytest.param(0.0, [(0, 4), (4, 8), (8, 12), (12, 16)], id="all-apart"),
        pytest.param(0.05, [(0, 4), (4, 8), (8, 12), (12, 16)], id="below-the-gaps"),
        pytest.param(0.3, [(0, 8), (8, 12), (12, 16)], id="two-joined"),
        pytest.param(0.6, [(0, 8), (8, 16)], id="two-pairs-joined"),
        pytest.param(9.0, [(0, 8), (8, 16)], id="never-the-whole"),
    ],
)
def test_clusters_that_part_below_epsilon_are_one(epsilon, expected):
    """Gaps of 0.17 and 0.47 within pairs, and of 5 between them; core distances are 0.01."""
    distances = distances_of(line_of(0.0, 0.2, 5.23, 5.73))
    config = ClusterConfig(selection_epsilon=epsilon)
    ranges = [tuple(range(*bounds)) for bounds in expected]
    assert cluster_distances(distances, config) == ranges


@pytest.mark.parametrize("method", ["eom", "leaf"])
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.05])
def test_where_sklearn_does_not_fail_the_clusters_are_its_own(method, epsilon):
    num_compared = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        centers = draw.uniform(size=(6, 2))
        points = centers[draw.integers(6, size=60)] + draw.normal(scale=0.05, size=(60, 2))
        distances = np.linalg.norm(points[:, None] - points[None, :], axis=2)
        model = HDBSCAN(
            min_cluster_size=4, min_samples=2, metric="precomputed", copy=True,
            cluster_selection_epsilon=epsilon, cluster_selection_method=method,
        )  # fmt: skip
        try:
            labels = model.fit_predict(distances)
        except TypeError:  # numpy 2.4, see clustering.py
            continue
        num_compared += 1
        theirs = sorted(tuple(np.flatnonzero(labels == label)) for label in set(labels) - {-1})
        config = ClusterConfig(selection_epsilon=epsilon, selection_method=method)
        assert cluster_distances(distances, config) == theirs
    assert num_compared >= 5
