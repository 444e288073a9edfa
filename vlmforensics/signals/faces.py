"""Faces that are softer or less noisy than what surrounds them, as swapped and generated faces are.

Faces are found by scikit-image's packaged cascade, without landmarks. In a photograph the face is about as sharp as
the hair and neck around it, or sharper, for the camera focuses on it; a face that was enlarged, blended and smoothed in
is softer. Cameras' beauty filters leave the same trace.

References:
    Liao, Zhu, Lei, Zhang & Li 2007, Learning Multi-scale Block Local Binary Patterns for Face Recognition (cascade);
    Li & Lyu 2019, Exposing DeepFake Videos by Detecting Face Warping Artifacts (resolution of face and surroundings).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np

from vlmforensics.signals.maps import halved, luma, upright
from vlmforensics.types import BoolMask, Box, CaseImage, Evidence, Pixels, Region

SIDE = 320
"""Pixels of the longer side at which faces are looked for; faces under a tenth of it are not found."""
LEAST = 64
"""Pixels a side under which a face is not measured."""
FOUND = 0.7
"""Log ratio of fine detail from which the text calls a face softer than its surroundings."""
_MOST = 8


@dataclass(frozen=True)
class Face:
    """One face: its box in the upright frame, and the log ratio of fine detail, surroundings over face."""

    box: Box
    softness: float


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]


def find_faces(pixels: Pixels) -> list[Box]:
    """Find frontal faces: boxes in pixels, largest first, at most eight.

    Args:
        pixels: uint8 (H, W, 3), upright.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(halved(pixels, *size), size, interpolation=cv2.INTER_AREA))
    if min(size) < 48:
        return []
    found = _cascade().detect_multi_scale(
        img=small,
        scale_factor=1.25,
        step_ratio=1.3,
        min_size=(32, 32),
        max_size=(min(size), min(size)),
        min_neighbor_number=4,
    )
    boxes = []
    for item in sorted(found, key=lambda item: (-item["width"], item["r"], item["c"]))[:_MOST]:
        left, top = round(item["c"] / scale), round(item["r"] / scale)
        right, bottom = (
            round((item["c"] + item["width"]) / scale),
            round((item["r"] + item["height"]) / scale),
        )
        boxes.append(Box(left, top, min(right, width), min(bottom, height)))
    return boxes


def softness(pixels: Pixels, box: Box) -> float | None:
    """How much more fine detail the surroundings of a face have, relative to coarse detail: natural log.

    Args:
        pixels: uint8 (H, W, 3), upright, unscaled.
        box: of the face.

    Returns:
        None where the face is small, or it or its surroundings are flat or cut off.
    """
    side = box.x1 - box.x0
    margin = side // 3
    x0, y0 = max(0, box.x0 - margin), max(0, box.y0 - margin)
    if side < LEAST:
        return None
    part = luma(pixels[y0 : box.y1 + margin, x0 : box.x1 + margin])
    fine = np.square(part - cv2.GaussianBlur(part, (0, 0), 1.0))
    coarse = np.square(cv2.GaussianBlur(part, (0, 0), 2.0) - cv2.GaussianBlur(part, (0, 0), 4.0))
    inside: BoolMask = np.zeros(part.shape, bool)
    inset = side // 8  # the cascade's box reaches beyond the cheeks
    inside[box.y0 - y0 + inset : box.y1 - y0 - inset, box.x0 - x0 + inset : box.x1 - x0 - inset] = True
    ring = np.ones(part.shape, bool)
    ring[box.y0 - y0 : box.y1 - y0, box.x0 - x0 : box.x1 - x0] = False
    if inside.sum() < 1000 or ring.sum() < inside.sum() / 2:
        return None
    values = []
    for area in (inside, ring):
        detail = coarse[area]
        busy = detail > np.median(detail)  # the busier half: bare background has no sharpness
        strength = float(detail[busy].mean())
        if strength < 1:
            return None
        values.append(float(np.log(fine[area][busy].mean() / strength + 1e-4)))
    return (values[1] - values[0]) / 2


class Faces:
    """Evidence from faces softer than their surroundings; none where no face can be measured."""

    name, version, cost = "faces", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence about the softest face, or an empty list."""
        if min(case.width, case.height) < LEAST * 2:
            return []
        boxes = find_faces(case.upright)
        if not boxes:
            return []
        pixels = case.stored  # as in the file: a profile's conversion would be measured, too
        if case.orientation != 1:
            pixels = np.dstack([upright(pixels[..., c], case.orientation) for c in range(3)])
        faces = [Face(box, value) for box in boxes if (value := softness(pixels, box)) is not None]
        if not faces:
            return []
        softest = max(faces, key=lambda face: face.softness)
        number = f"{len(faces)} face{'' if len(faces) == 1 else 's'}"
        ratio = f"log ratio of fine detail {softest.softness:+.2f}"
        if softest.softness >= FOUND:
            text = f"Of {number} that can be measured, one is softer than its surroundings ({ratio})."
        else:
            text = (
                f"Of {number} that can be measured, none is softer than its surroundings (largest {ratio})."
            )
        recompute = {"version": self.version, "faces": [face.box.as_list() for face in faces]}
        region = Region(softest.box) if softest.softness >= FOUND else None
        return [Evidence(self.name, text, score=softest.softness, region=region, recompute=recompute)]
