"""``longrlvr theory`` writes a record and figures that open."""

import json

from PIL import Image

from megatron_longrlvr.cli import main
from megatron_longrlvr.theory.experiment import EVIDENCE_COUNTS


def test_record_and_figures_are_written(tmp_path, capsys):
    assert main(["theory", "--output", str(tmp_path), "--samples", "2000", "--steps", "30"]) == 0
    record = json.loads((tmp_path / "theory.json").read_text())
    # p = 1/16 at 64 chunks: each evidence chunk more costs the outcome's gradient a factor 16.
    slope = record["log_gradient_per_evidence_chunk"]["outcome only"]
    assert abs(slope + 2.772589) < 1e-6
    sizes = {row["num_evidence"] for row in record["scaling"] if row["num_chunks"] == 64}
    assert sizes == set(EVIDENCE_COUNTS)
    names = ["controls", "gradients", "learning", "signal"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == names
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 1000
    assert "Gradient per evidence logit" in capsys.readouterr().out
