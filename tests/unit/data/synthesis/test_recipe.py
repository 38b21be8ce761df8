"""The shipped recipe is valid and complete; what cannot work is named; what is ahead is counted."""

import pytest
import yaml

from megatron_longrlvr.config.checks import check_synthesis_config
from megatron_longrlvr.config.load import RECIPES, load_config, parse_config
from megatron_longrlvr.config.synthesis import SynthesisConfig
from megatron_longrlvr.data.synthesis.estimate import estimate
from megatron_longrlvr.data.synthesis.workspace import Shard, Workspace
from megatron_longrlvr.errors import ConfigError


def changed(**changes):
    content = yaml.safe_load((RECIPES / "synthesis.yaml").read_text())
    for dotted, value in changes.items():
        section, _, key = dotted.rpartition("__")
        (content[section] if section else content)[key] = value
    return content


def parse(**changes):
    return parse_config(changed(**changes), SynthesisConfig, origin="r.yaml")


def test_the_shipped_recipe_has_the_published_settings():
    config = load_config("synthesis", [], SynthesisConfig)
    cluster = config.cluster
    assert (cluster.min_cluster_size, cluster.min_samples, cluster.selection_epsilon) == (4, 2, 0.3)
    assert (cluster.min_chunks, cluster.max_chunks, cluster.min_clusters, cluster.drawn) == (
        *(4, 16),
        *(4, 4),
    )
    assert (config.chunk.max_tokens, config.generate.candidates_per_cluster) == (512, 3)
    assert config.select.min_score == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"score__model": "big"}, "score.model='big' is not in models", id="model"),
        pytest.param({"clean__min_tokens": 99_999}, "clean=.*min_tokens=99999", id="lengths"),
        pytest.param({"cluster__min_chunks": 17}, "cluster=.*min_chunks=17 is above", id="sizes"),
        pytest.param({"embed__dim": 3}, "did you mean", id="typo"),
    ],
)
def test_what_cannot_work_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_synthesis_config(parse(**changes))


@pytest.mark.parametrize("text", ["3", "3/3", "-1/3", "a/b", "0/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="--shard must read I/N"):
        Shard.parse(text)


def test_what_is_ahead_is_counted(tmp_path):
    """Three rows and a file are 4 documents, 16 clusters and 48 candidates.

    Each of these is written and rated: 48 * 32768 reply tokens at most, twice. With 1 a million
    prompt tokens, 48 prompts of 16 * 512 + 500 tokens cost 0.417.
    """
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}')
    (tmp_path / "one.txt").write_text("text")
    (tmp_path / "other.xyz").write_text("not read")
    content = changed(read__paths=[str(tmp_path)])
    content["models"]["strong"]["price_per_million_prompt_tokens"] = 1.0
    ahead = estimate(
        parse_config(content, SynthesisConfig, origin="r"), Workspace(root=tmp_path / "run")
    )
    requests = {stage.stage: stage.requests for stage in ahead.stages}
    assert ahead.num_documents == 4
    assert requests == {
        "generate": 48,
        "score": 48,
        "difficulty, alone": 8,
        "difficulty, document": 16,
        "evidence": 24,  # from the evidence, without each of 4 chunks, without any
    }
    assert ahead.stages[0].reply_tokens == 48 * 32_768
    assert ahead.stages[0].cost == pytest.approx(48 * (16 * 512 + 500) / 1e6)
