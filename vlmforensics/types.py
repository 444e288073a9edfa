"""Value types that flow between the rooms: ``CaseImage`` → ``Evidence`` → ``Verdict`` → ``Report``.

Frozen, validated on construction, no behaviour beyond that. Coordinates are pixels of the *upright* frame (after
EXIF orientation), origin top-left, x right, y down, boxes half-open ``[x0, x1) × [y0, y1)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import Defect

Label = Literal["real", "synthetic", "tampered"]
VerdictLabel = Literal["real", "synthetic", "tampered", "inconclusive"]
Status = Literal["measured", "observed"]
LABELS: tuple[Label, ...] = ("real", "synthetic", "tampered")

Pixels = NDArray[np.uint8]
"""uint8, (H, W, 3), sRGB 0..255."""
Grey = NDArray[np.float32]
"""float32, (H, W), range as its owner says."""
BoolMask = NDArray[np.bool_]
"""bool, (H, W), upright frame, True = suspected."""


def _frozen_map(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(values))


def no_llr() -> Mapping[str, float]:
    """The log-likelihood ratios of evidence that says nothing: 0 for each label."""
    return _frozen_map(dict.fromkeys(LABELS, 0.0))


@dataclass(frozen=True)
class Box:
    """Half-open rectangle ``[x0, x1) × [y0, y1)`` in upright-frame pixels; never empty."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise Defect(f"empty or negative box {self.as_list()}")

    def as_list(self) -> list[int]:
        """``[x0, y0, x1, y1]``."""
        return [self.x0, self.y0, self.x1, self.y1]


@dataclass(frozen=True, eq=False)
class Region:
    """Where evidence was found: a box, and optionally the exact pixels (``mask``: bool, (H, W), upright frame)."""

    box: Box
    mask: BoolMask | None = None


@dataclass(frozen=True, eq=False)
class JpegFacts:
    """What the JPEG markers say, before any pixel is decoded.

    Attributes:
        quant_tables: one int32 (8, 8) array per table id, natural (not zig-zag) order, as stored.
        subsampling: e.g. ``4:2:0``, ``4:4:4``, ``grey``, or ``other``.
        progressive: True for SOF2.
        quality: the libjpeg quality (1..100) whose standard tables fit best, or None where none is near.
        quality_distance: mean absolute difference of the luma table from that quality's standard table (0 = standard).
        markers: marker names in file order, e.g. ``("SOI", "APP0", "DQT", …)``.
        optimised_huffman: True where the Huffman tables are not the standard's.
    """

    quant_tables: Mapping[int, NDArray[np.int32]]
    subsampling: str
    progressive: bool
    quality: int | None
    quality_distance: float
    markers: tuple[str, ...]
    optimised_huffman: bool


@dataclass(frozen=True, eq=False)
class Container:
    """Facts of the file around the pixels; all text is hostile (length-capped, control characters escaped).

    Attributes:
        format: by content: JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF, HEIC.
        mode: Pillow's mode before conversion, e.g. ``CMYK``, ``I;16``, ``P``.
        bit_depth: bits per channel as stored.
        exif: tag name → text, from all IFDs, ``IFD:Tag`` for those outside the main one (``Exif:``, ``GPS:``).
        xmp: the XMP packet as text, or None.
        text: PNG tEXt/iTXt/zTXt keys, GIF/JPEG comments (key ``comment``) → text.
        iptc: IPTC-IIM dataset name or ``record:dataset`` → text.
        icc: description of the embedded profile, or None.
        thumbnail: the embedded EXIF thumbnail's bytes, or None.
        trailing_bytes: number of bytes after the picture's end marker.
        frames: number of frames or pages; only the first is judged.
        jpeg: marker facts, for JPEG only.
    """

    format: str
    mode: str
    bit_depth: int
    exif: Mapping[str, str] = field(default_factory=dict)
    xmp: str | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    iptc: Mapping[str, str] = field(default_factory=dict)
    icc: str | None = None
    thumbnail: bytes | None = None
    trailing_bytes: int = 0
    frames: int = 1
    jpeg: JpegFacts | None = None


@dataclass(frozen=True, eq=False)
class CaseImage:
    """One picture under examination: its bytes untouched, what they contain, and its pixels in two frames.

    Attributes:
        file: the label the user gave (a path or ``<bytes>``); never used to open anything.
        data: the bytes as received.
        sha256: lower-case hex digest of ``data``.
        container: facts around the pixels.
        upright: uint8 (H, W, 3) sRGB, orientation and ICC applied, alpha composited on mid-grey: what a viewer shows.
        stored: uint8 (h, w, 3), neither orientation nor ICC applied: for signals that need the JPEG grid.
        orientation: EXIF orientation 1..8 that maps ``stored`` to ``upright``.
        alpha: uint8 (H, W) upright, or None where opaque.
        notes: conversions that were made, one sentence each.
    """

    file: str
    data: bytes
    sha256: str
    container: Container
    upright: Pixels
    stored: Pixels
    orientation: int = 1
    alpha: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for frame in (self.upright, self.stored):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
                raise Defect("a case needs uint8 (H, W, 3) pixels", file=self.file)
        if not 1 <= self.orientation <= 8:
            raise Defect(f"orientation {self.orientation} is not 1..8", file=self.file)

    @property
    def width(self) -> int:
        """Upright width in pixels."""
        return int(self.upright.shape[1])

    @property
    def height(self) -> int:
        """Upright height in pixels."""
        return int(self.upright.shape[0])


@dataclass(frozen=True)
class Reliability:
    """How often a source is right on validation data: balanced accuracy in [0, 1], 95 % interval, number tried."""

    balanced_accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """One finding of one witness.

    A witness fills in ``source, statement, score`` (and where it can ``vector, code, region, heatmap, recompute``);
    ``id, llr, strength, reliability, contribution`` are fusion's to fill in. Evidence whose source is unknown to the
    calibration, and evidence with neither score nor code, contributes zero.

    Attributes:
        source: stable identifier; at most one evidence per source in a report.
        statement: one measured fact in words, with its number and unit; plain text, ends with a full stop.
        score: raw; higher = less like an untouched photograph. None for a fact without a number.
        vector: raw scores that calibration reads instead of ``score`` where one number is not enough (the label
            head's three log-probabilities); empty otherwise.
        code: categorical outcome for sources calibrated by a table (e.g. ``sd-parameters``); empty otherwise.
        status: ``measured`` by an algorithm, ``observed`` by a model.
        region: where, or None.
        heatmap: float32 (h, w) in [0, 1] at any resolution, stretched over the whole upright frame; display only.
        recompute: JSON-serialisable parameters that reproduce the number.
        llr: natural-log likelihood ratio of each label against the rest; 0 = says nothing.
        strength: the likelihood ratio in words, ``moderate support for synthetic``, or why there is none: ``no
            support``, ``no weight`` (it would say something, and fusion gives it no weight), ``not calibrated``,
            ``outside calibration``.
        contribution: log-odds added to each label by this evidence in fusion.
    """

    source: str
    statement: str
    score: float | None = None
    vector: tuple[float, ...] = ()
    code: str = ""
    status: Status = "measured"
    region: Region | None = None
    heatmap: Grey | None = None
    recompute: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    llr: Mapping[str, float] = field(default_factory=no_llr)
    strength: str = "no support"
    reliability: Reliability | None = None
    contribution: Mapping[str, float] = field(default_factory=no_llr)

    def __post_init__(self) -> None:
        numbers = [*self.vector, *self.llr.values(), *self.contribution.values()]
        if self.score is not None:
            numbers.append(self.score)
        if not all(math.isfinite(number) for number in numbers):
            raise Defect(f"{self.source}: a score, llr or contribution is not finite")
        if len(self.statement) < 10:
            raise Defect(f"{self.source}: a statement must be a sentence")


@dataclass(frozen=True)
class SourceFailure:
    """A witness that broke: it contributes zero and counts towards *inconclusive*, never towards *real*."""

    source: str
    code: str
    message: str = ""


@dataclass(frozen=True, eq=False)
class Traces:
    """What a blending detector draws over the upright picture, at a resolution of its own.

    Attributes:
        boundary: float32 (h, w) in [0, 1]: where two sources meet.
        region: float32 (h, w) in [0, 1]: what is foreign; None where the detector doesn't say.
    """

    boundary: Grey
    region: Grey | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """Where the mask head suspects tampering.

    Attributes:
        soft: float32 (H, W) in [0, 1], upright frame, calibrated per pixel.
        binary: bool (H, W): ``soft`` over the calibrated threshold, small specks removed.
        boxes: one per connected region, largest first.
        confidences: mean of ``soft`` inside each region, same order.
        threshold: the threshold that was applied.
        presence: probability in [0, 1] that anything in the picture was tampered with, or None where not estimated.
        joined: share of the picture, 0..1, that is marked only because other findings name it.
    """

    soft: Grey
    binary: BoolMask
    boxes: tuple[Box, ...]
    confidences: tuple[float, ...]
    threshold: float
    presence: float | None = None
    joined: float = 0.0

    @property
    def area_fraction(self) -> float:
        """Share of the picture inside the binary mask, 0..1."""
        return float(self.binary.mean())

    def unmarked(self) -> Mask:
        """The same map with nothing marked in it."""
        return replace(self, binary=np.zeros_like(self.binary), boxes=(), confidences=())

    def save(self, path: str | Path) -> None:
        """Write the binary mask as a grey PNG of the upright picture's size, 255 = suspected."""
        from importlib import import_module

        grey = np.where(self.binary, np.uint8(255), np.uint8(0))
        Path(path).write_bytes(import_module("vlmforensics.imaging").to_png(grey))


@dataclass(frozen=True)
class Verdict:
    """What fusion decided.

    Attributes:
        label: the decision; ``inconclusive`` where it abstained.
        probabilities: calibrated, over the three labels, sum to 1.
        prior: log-odds before any evidence; with all contributions they give the log of the probabilities up to a
            constant common to the labels.
        abstention: why it abstained, one sentence, or None.
        alpha: the bound on the share of real pictures that are accused (0..1).
        leading: the most probable label, whatever was decided.
        mask_agreement: one sentence on how mask and verdict agree, or None where no mask head ran.
        ruled_out_below: label → probability at or below which this label would be ruled out, the other two keeping
            their ratio (0..1; 0 = never, at this alpha); empty where not known. The verdict is the one label above
            its bound, or the likelier of synthetic and tampered where these two are and differ by enough, unless a gate
            or a failure forbids it.
    """

    label: VerdictLabel
    probabilities: Mapping[str, float]
    prior: Mapping[str, float]
    abstention: str | None
    alpha: float
    leading: Label
    mask_agreement: str | None = None
    ruled_out_below: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if abs(sum(self.probabilities.values()) - 1) > 1e-6:
            raise Defect("probabilities do not sum to 1")
        if (self.label == "inconclusive") != (self.abstention is not None):
            raise Defect("inconclusive needs a reason, and only it has one")

    @property
    def abstained(self) -> bool:
        """True where the verdict is inconclusive."""
        return self.label == "inconclusive"


@dataclass(frozen=True)
class ModelInfo:
    """Which weights spoke: all digests are lower-case SHA-256 hex.

    ``weights_sha256`` stands for all networks together; ``parts`` names each with its own digest.
    """

    name: str
    version: str
    weights_sha256: str
    calibration_sha256: str = ""
    settings_sha256: str = ""
    parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Text that explains a verdict, each sentence checked against the evidence.

    Attributes:
        text: the whole, citing evidence as ``[E1]``.
        sentences: number of sentences.
        replaced: number of generated sentences that failed the check and were replaced by a plain statement.
        generated: number of sentences that the narrator wrote, replaced ones included.
    """

    text: str
    sentences: int = 0
    replaced: int = 0
    generated: int = 0


@dataclass(frozen=True)
class Answer:
    """A reply to a follow-up question about a report; it never re-judges. ``cited`` holds evidence ids."""

    question: str
    text: str
    cited: tuple[str, ...] = ()


@dataclass(eq=False)
class Report:
    """Everything said about one case; ``vlmforensics.report`` turns it into a record, a page or a file.

    Only ``explanation`` and ``conversation`` are filled in later, by the assistant. ``case`` and pixel-sized arrays
    live only as long as the report object; the record keeps neither. ``look`` is the backbone's private state, from
    which the explanation continues, and ``traces`` are what the blending detector drew. ``guarantee`` is one sentence:
    what the calibration promises about real pictures.
    """

    case: CaseImage
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    mask: Mask | None
    model: ModelInfo
    failures: tuple[SourceFailure, ...] = ()
    explanation: Explanation | None = None
    conversation: tuple[Answer, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    look: Any = field(default=None, repr=False)
    traces: Traces | None = field(default=None, repr=False)
    guarantee: str = ""

    @property
    def file(self) -> str:
        """The picture's label as the user gave it."""
        return self.case.file

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Shortcut to the verdict's probabilities."""
        return self.verdict.probabilities

    def save(self, path: str) -> None:
        """Write the report; the ending chooses the format: ``.html``, ``.json`` or ``.md``."""
        from importlib import import_module

        import_module("vlmforensics.report").save(self, path)


class EvidenceSource(Protocol):
    """A witness: looks at a case, reports what it measured. It never raises for a case it does not apply to."""

    name: str
    version: str
    cost: str

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return findings, or an empty list where the method does not apply (e.g. JPEG history of a PNG)."""
        ...
