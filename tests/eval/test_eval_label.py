"""The language model's own label, from stored scores of families left out."""

from pathlib import Path

import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.eval import label
from vlmforensics.finetune.compact_label import write_scores
from vlmforensics.finetune.pictures import Picture


def picture(number, truth):
    return Picture(Path(f"{number}.png"), truth, f"s{number % 3}", "", None, f"{number:064x}", "", "gen")


@pytest.fixture
def pictures():
    return [picture(n, truth) for n, truth in enumerate(["real"] * 6 + ["synthetic"] * 6 + ["tampered"] * 3)]


def stored(folder, pictures, right, name="scores.json", variant="equalised"):
    """Log-probabilities 0.8 on the truth of the pictures in ``right``, on another label for the rest."""
    scores = {}
    for index, item in enumerate(pictures):
        truth = ("real", "synthetic", "tampered").index(item.label)
        said = np.full(3, 0.1)
        said[truth if index in right else (truth + 1) % 3] = 0.8
        scores[variant, item.sha256] = np.log(said).tolist()
    folder.mkdir(exist_ok=True)
    write_scores(folder / name, scores)


def test_figures_are_those_of_all_groups_together(tmp_path, pictures):
    everything = set(range(15))
    stored(tmp_path / "0", pictures[:8], everything)
    stored(tmp_path / "1", pictures[8:], everything - {0, 1})
    stored(tmp_path / "1", pictures[8:], everything, "alone.json")
    found = label.figures(pictures, tmp_path)
    told = found["told the experts' readings"]["equalised"]
    assert told["pictures"] == {"real": 6, "synthetic": 6, "tampered": 3}
    # two synthetic pictures are called tampered: 4 of 6 right, the others all
    assert told["balanced accuracy"] == pytest.approx((1 + 4 / 6 + 1) / 3)
    # by synthetic against real, the two are even (0.1 to 0.1) and still above the real ones (0.1 to 0.8)
    assert told["real against synthetic"]["auc"] == 1.0
    alone = found["without them"]["equalised"]
    assert alone["pictures"]["real"] == 0
    assert "real against synthetic" not in alone
    lines = label.table(found)
    assert "| told the experts' readings, equalised | 6 + 6 + 3 | 1.000 [1.000, 1.000]" in lines[2]
    assert "| – | – |" in lines[3]


def test_without_scores_it_says_how_to_get_them(tmp_path, pictures):
    with pytest.raises(SettingsError, match="finetune label"):
        label.figures(pictures, tmp_path)
