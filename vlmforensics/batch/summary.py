"""What a run did: counts, throughput and errors, kept while records pass and written beside them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmforensics.report import printable, write_atomically

SCHEMA = "vlmforensics.run/1"


def run_file(out: Path) -> Path:
    """Where the summary of a batch file goes: ``records.jsonl`` → ``records.run.json``."""
    return out.with_name(f"{out.stem}.run.json")


class Summary:
    """Counts of one run.

    Args:
        parameters: of the run, JSON types.

    Attributes:
        examined: records made from pixels or errors in this run.
        skipped: inputs that were recorded before.
        failed: error records made in this run.
        twins: records made from another name's record.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = dict(parameters)
        self.examined = self.skipped = self.failed = self.twins = 0
        self._verdicts: Counter[str] = Counter()
        self._stages: Counter[str] = Counter()
        self._errors: dict[str, dict[str, Any]] = {}
        self._model: Mapping[str, Any] | None = None
        self._software: Mapping[str, Any] | None = None
        self._begun = datetime.now(UTC)
        self._start = time.monotonic()
        self._first: float | None = None

    def skip(self) -> None:
        """Count an input that was recorded before."""
        self.skipped += 1

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a new record."""
        if self._first is None:
            self._first = time.monotonic()
        self._model, self._software = record["model"], record.get("software")
        error = record["error"]
        if "same_bytes_as" in record:
            self.twins += 1
        else:
            self.examined += 1
            self._stages.update({stage: float(spent) for stage, spent in record["timing"].items()})  # type: ignore[call-overload]
        self._verdicts[record["verdict"] or "error"] += 1
        if error is not None:
            self.failed += 1
            known = self._errors.setdefault(
                error.get("code") or error["type"],
                {"count": 0, "message": printable(error["message"], 300), "first": record["file"]},
            )
            known["count"] += 1

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float | None:
        """Records a second since the first one came: the time to load the model is left out."""
        done = self.examined + self.twins - 1
        if self._first is None or done < 1:
            return None
        return done / max(1e-6, time.monotonic() - self._first)

    def left(self, total: int | None) -> float | None:
        """Seconds until ``total`` inputs are done at this rate."""
        rate = self.rate
        if total is None or not rate:
            return None
        return max(0, total - self.skipped - self.examined - self.twins) / rate

    def to_json(self, *, records: int, failed: int, stopped: bool) -> dict[str, Any]:
        """The run as JSON.

        Args:
            records: in the whole file, earlier runs included.
            failed: error records in the whole file.
            stopped: the run was interrupted.
        """
        rate, examined = self.rate, max(1, self.examined)
        return {
            "schema": SCHEMA,
            "started": self._begun.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": not stopped,
            "parameters": self.parameters,
            "software": dict(self._software or {}),
            "model": None if self._model is None else dict(self._model),
            "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
            "counts": {
                "examined": self.examined,
                "same_bytes": self.twins,
                "recorded_before": self.skipped,
                "failed": self.failed,
                "by_verdict": dict(sorted(self._verdicts.items())),
                "records_in_file": records,
                "failed_in_file": failed,
            },
            "throughput": {
                "seconds": round(self.seconds, 3),
                "pictures_per_second": None if rate is None else round(rate, 4),
                "mean_seconds_by_stage": {name: round(v / examined, 4) for name, v in self._stages.items()},
            },
            "errors": dict(sorted(self._errors.items(), key=lambda item: -item[1]["count"])),
        }

    def write(self, out: Path, **known: Any) -> Path:
        """Write :meth:`to_json` beside the batch file; ``known`` is handed to it."""
        target = run_file(out)
        write_atomically(target, json.dumps(self.to_json(**known), indent=2, ensure_ascii=True) + "\n")
        return target
