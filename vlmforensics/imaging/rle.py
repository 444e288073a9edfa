"""Run-length encoding of masks as COCO does it: column-major, runs alternate from 0, text of 5-bit groups.

The text is the compressed form of pycocotools: each run length (from the fourth on, its difference from the
one two before) is split into 5-bit groups, low first; bit 0x20 marks that more follow, and 48 is added to
give a character.

References:
    Lin et al. 2014, Microsoft COCO; cocoapi ``common/maskApi.c``, ``rleToString``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import Defect, InputError
from vlmforensics.types import BoolMask

_MAX_PIXELS = 1 << 30
_MORE, _SIGN, _BASE = 0x20, 0x10, 48


def rle_encode(mask: BoolMask) -> dict[str, Any]:
    """Encode a mask.

    Args:
        mask: bool (H, W).

    Returns:
        ``{"size": [H, W], "counts": text}``, ready for JSON and for pycocotools.

    Raises:
        Defect: the array is not a mask.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise Defect(f"a mask is bool (H, W), not {mask.dtype} {mask.shape}")
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size])).astype(np.int64)
    runs = np.diff(bounds)
    if flat.size == 0:
        runs = np.zeros(1, np.int64)
    elif flat[0]:
        runs = np.concatenate((np.zeros(1, np.int64), runs))
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": _to_text(values)}


def _to_text(values: NDArray[np.int64]) -> str:
    """Write signed integers as 5-bit groups; all numbers advance together, one group a round."""
    rest, rounds = values, []
    alive = np.ones(values.size, np.bool_)
    while alive.any():
        group = rest & 0x1F
        rest = rest >> 5
        more = np.where(group & _SIGN, rest != -1, rest != 0)
        rounds.append(np.where(alive, group + np.where(more, _MORE, 0) + _BASE, 0).astype(np.uint8))
        alive = alive & more
    # Transposed, each number's groups are neighbours; zeros are rounds in which it had ended.
    letters = np.stack(rounds, axis=1).ravel()
    return letters[letters != 0].tobytes().decode("ascii")


def rle_decode(rle: Mapping[str, Any]) -> BoolMask:
    """Decode a mask written by ``rle_encode`` or by pycocotools.

    Args:
        rle: ``{"size": [H, W], "counts": str or bytes}``.

    Returns:
        bool (H, W).

    Raises:
        InputError: the text is not such an encoding, or its runs do not fill the size exactly.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        letters = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a run-length mask: {error}", code="rle.invalid") from error
    if height < 0 or width < 0 or height * width > _MAX_PIXELS:
        raise InputError(f"a mask of {width}×{height} is out of range", code="rle.invalid")
    runs = _from_text(letters)
    total = height * width
    # The bound on each run also keeps the sum from wrapping around.
    if runs.size == 0 or runs.min() < 0 or runs.max() > total or int(runs.sum()) != total:
        raise InputError("the runs of this mask do not fill its size", code="rle.invalid")
    flat = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))


def _from_text(letters: bytes) -> NDArray[np.int64]:
    """Read the run lengths; anything malformed raises ``InputError``."""
    groups = np.frombuffer(letters, np.uint8).astype(np.int64) - _BASE
    if groups.size == 0:
        return groups
    if groups.min() < 0 or groups.max() > 0x3F or groups[-1] & _MORE:
        raise InputError("this mask's text has characters outside the encoding", code="rle.invalid")
    ends = np.flatnonzero((groups & _MORE) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    position = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
    if position.max() > 7:  # 8 groups hold 40 bits: more than any mask has pixels
        raise InputError("a run of this mask is too long", code="rle.invalid")
    values = np.add.reduceat((groups & 0x1F) << (5 * position), starts)
    negative = (groups[ends] & _SIGN) != 0
    values = np.where(negative, values - (np.int64(1) << (5 * (position[ends] + 1))), values)
    # From the fourth on, each is the difference from the one two before: two interleaved running sums. The
    # very first run stands alone, so the even chain starts at index 2.
    values[2::2] = np.cumsum(values[2::2])
    values[1::2] = np.cumsum(values[1::2])
    return values
