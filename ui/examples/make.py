"""Make the example pictures of the page from photographs that come with scikit-image.

Run from anywhere: ``python make.py [FOLDER]``. The same versions of scikit-image and Pillow give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import data

from vlmforensics import imaging
from vlmforensics.types import Pixels


def photograph() -> Pixels:
    """A cup of coffee as photographed (Rachel Michetti, CC0)."""
    return np.ascontiguousarray(data.coffee()[:, :, :3])


def spliced() -> Pixels:
    """The coffee table with the head of a cat on it: another camera, another JPEG history, another size."""
    ground = photograph()
    cat = np.ascontiguousarray(data.chelsea()[0:240, 60:330])
    # The cat has a past of its own, as a picture found somewhere would.
    cat = imaging.decode_trusted(imaging.encode(cat, "JPEG", quality=62))
    cat = imaging.resize(cat, 189, 168, resample="bicubic")
    top, left = 18, 392
    height, width = cat.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    reach = np.hypot((columns - 88) / 84, (rows - 88) / 76)
    soft = np.clip((1.0 - reach) / 0.06, 0, 1)[..., None]
    out = ground.astype(np.float64)
    patch = out[top : top + height, left : left + width]
    out[top : top + height, left : left + width] = patch * (1 - soft) + cat * soft
    return np.rint(out).astype(np.uint8)


def main() -> None:
    """Write both pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (folder / "photograph.jpg").write_bytes(imaging.encode(photograph(), "JPEG", quality=90))
    (folder / "spliced.jpg").write_bytes(imaging.encode(spliced(), "JPEG", quality=92))


if __name__ == "__main__":
    main()
