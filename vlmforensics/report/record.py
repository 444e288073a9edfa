"""The batch record ``vlmforensics.record/1``: what a report says, as JSON.

``record-1.schema.json`` beside this file is the contract; changes are additive only. Two runs over the same
file with the same weights and settings give the same record byte for byte, ``timing`` apart;
:func:`canonical_json` leaves that out, and its digest verifies a record.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from typing import Any

import numpy as np

from vlmforensics import imaging
from vlmforensics.errors import VlmForensicsError
from vlmforensics.report.text import software
from vlmforensics.types import LABELS, CaseImage, Evidence, Explanation, Mask, ModelInfo, Report

SCHEMA_ID = "vlmforensics.record/1"
_PROBABILITY_DIGITS = 12
_DIGITS = 6


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record."""
    text = files("vlmforensics.report").joinpath("record-1.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def to_record(report: Report, *, with_text: bool = True) -> dict[str, Any]:
    """Turn a report into a record.

    Args:
        report: as the assistant made it.
        with_text: False leaves ``explanation`` null even where there is one.

    Returns:
        A dictionary of JSON types in the schema's order. Beyond the required fields it carries what repeating
        needs: the prior and alpha of fusion, the parts of the model, conversions made while decoding, library
            versions.
    """
    case, verdict = report.case, report.verdict
    explained = report.explanation.text if with_text and report.explanation is not None else None
    return {
        "schema": SCHEMA_ID,
        "file": report.file,
        "sha256": case.sha256,
        "bytes": len(case.data),
        "width": case.width,
        "height": case.height,
        "format": case.container.format,
        "verdict": verdict.label,
        "abstention": verdict.abstention,
        "leading": verdict.leading,
        "probabilities": rounded_probabilities(verdict.probabilities),
        "prior": _by_label(verdict.prior),
        "alpha": verdict.alpha,
        "guarantee": report.guarantee,
        "evidence": [_evidence(item) for item in report.evidence],
        "failures": [{"source": f.source, "code": f.code, "message": f.message} for f in report.failures],
        "mask": _mask(report),
        "mask_agreement": verdict.mask_agreement,
        "explanation": explained,
        "explanation_check": None
        if explained is None or report.explanation is None
        else explanation_check(report.explanation),
        "conversation": [
            {"question": answer.question, "text": answer.text, "cited": list(answer.cited)}
            for answer in report.conversation
        ],
        "container": _container(case),
        "notes": list(case.notes),
        "model": model_fields(report.model),
        "software": dict(software()),
        "timing": {stage: round(float(seconds), 4) for stage, seconds in report.timing.items()},
        "error": None,
    }


def error_record(
    file: str, data_sha256: str | None, error: BaseException, model: ModelInfo
) -> dict[str, Any]:
    """The record of a picture that could not be examined.

    Args:
        file: the picture's label as the user gave it.
        data_sha256: digest of its bytes, or None where they could not be read.
        error: what was raised; anything but our own errors is reported as a defect, without its traceback.
        model: the weights that would have spoken.
    """
    if isinstance(error, VlmForensicsError):
        kind, code, message = type(error).__name__, error.code, error.message
    else:
        kind, code, message = "Defect", "defect", f"unexpected {type(error).__name__}: {error}"
    if len(message) < 10:
        message = f"{kind}: {message or 'no details'}"
    empty = dict.fromkeys(("width", "height", "format", "verdict", "abstention", "probabilities", "evidence"))
    return {
        "schema": SCHEMA_ID,
        "file": file,
        "sha256": data_sha256,
        **empty,
        "failures": [],
        "mask": None,
        "explanation": None,
        "model": model_fields(model),
        "software": dict(software()),
        "timing": {},
        "error": {"type": kind, "code": code, "message": message},
    }


def model_fields(model: ModelInfo) -> dict[str, Any]:
    """``model`` of a record."""
    return {item.name: getattr(model, item.name) for item in fields(model)} | {"parts": dict(model.parts)}


def to_json(record: Mapping[str, Any], *, indent: int | None = None) -> str:
    """One record as ASCII JSON: no line separator of any kind can occur inside a line of a batch file."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False, indent=indent)


def canonical_json(record: Mapping[str, Any]) -> str:
    """The record without ``timing``, keys sorted, no white space: what :func:`digest` is taken of."""
    kept = {key: value for key, value in record.items() if key != "timing"}
    return json.dumps(kept, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the record's canonical JSON."""
    return hashlib.sha256(canonical_json(record).encode("ascii")).hexdigest()


def rounded_probabilities(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Round to 12 decimals so that the three still sum to 1: the largest takes up what rounding left.

    Twelve, not six: a probability of 1e-7 must still agree with the log-odds that the contributions add up
        to.
    """
    out: dict[str, float] = {
        label: round(float(probabilities[label]), _PROBABILITY_DIGITS) for label in LABELS
    }
    largest = max(LABELS, key=lambda label: out[label])
    rest = math.fsum(value for label, value in out.items() if label != largest)
    out[largest] = round(1.0 - rest, _PROBABILITY_DIGITS)
    return out


def _by_label(values: Mapping[str, float]) -> dict[str, float]:
    return {label: round(float(values.get(label, 0.0)), _DIGITS) + 0.0 for label in LABELS}


def _evidence(item: Evidence) -> dict[str, Any]:
    known = item.reliability
    return {
        "id": item.id,
        "source": item.source,
        "status": item.status,
        "statement": item.statement,
        "score": None if item.score is None else round(float(item.score), _DIGITS) + 0.0,
        "vector": [round(float(value), _DIGITS) + 0.0 for value in item.vector],
        "code": item.code,
        "llr": _by_label(item.llr),
        "strength": item.strength,
        "reliability": None
        if known is None
        else {
            "balanced_accuracy": round(float(known.balanced_accuracy), _DIGITS),
            "low": round(float(known.low), _DIGITS),
            "high": round(float(known.high), _DIGITS),
            "n": int(known.n),
        },
        "contribution": _by_label(item.contribution),
        "region": None if item.region is None else {"box": [int(side) for side in item.region.box.as_list()]},
        "recompute": _plain(item.recompute),
    }


def _container(case: CaseImage) -> dict[str, Any]:
    """Facts around the pixels that identify the exhibit; counts only: metadata is hostile and private."""
    container = case.container
    jpeg = container.jpeg
    return {
        "mode": container.mode,
        "bit_depth": int(container.bit_depth),
        "orientation": int(case.orientation),
        "frames": int(container.frames),
        "trailing_bytes": int(container.trailing_bytes),
        "exif_fields": len(container.exif),
        "text_fields": len(container.text),
        "iptc_fields": len(container.iptc),
        "xmp": container.xmp is not None,
        "jpeg": None if jpeg is None else {"quality": jpeg.quality, "subsampling": jpeg.subsampling},
    }


def explanation_check(explanation: Explanation) -> dict[str, int]:
    """What the check of an explanation's sentences found, see :class:`vlmforensics.types.Explanation`."""
    return {
        "sentences": explanation.sentences,
        "generated": explanation.generated,
        "replaced": explanation.replaced,
    }


def _mask(report: Report) -> dict[str, Any] | None:
    """The mask, or an empty one where the verdict is *tampered*, the mask head ran and found no region."""
    mask = report.mask
    if mask is None or not mask.binary.any():
        looked = any(item.source == "mask" for item in report.evidence)
        if report.verdict.label != "tampered" or not looked:
            return None
        return _rle(np.zeros((report.case.height, report.case.width), bool))
    return _rle(mask.binary) | _mask_details(mask)


def _mask_details(mask: Mask) -> dict[str, Any]:
    return {
        "threshold": round(float(mask.threshold), _DIGITS),
        "boxes": [[int(side) for side in box.as_list()] for box in mask.boxes],
        "confidences": [round(float(value), _DIGITS) for value in mask.confidences],
    }


def _rle(binary: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    encoded = imaging.rle_encode(binary)
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"]}


def _plain(value: Any) -> Any:
    """Evidence parameters as JSON types: numpy scalars and arrays, tuples and mappings included."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0 if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
