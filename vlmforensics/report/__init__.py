"""Reports: a record (JSON), a page (HTML), Markdown; words and layout only, nothing is decided here."""

from vlmforensics.report.files import check_ending, replacing, save, write_atomically
from vlmforensics.report.html import check_picture, record_to_html, to_html
from vlmforensics.report.markdown import record_to_markdown, to_markdown
from vlmforensics.report.record import (
    SCHEMA_ID,
    canonical_json,
    digest,
    error_record,
    model_fields,
    schema,
    to_json,
    to_record,
)
from vlmforensics.report.text import HEADLINES, LIMITS, MEANINGS, error_rate, percent, printable

__all__ = [
    "HEADLINES",
    "LIMITS",
    "MEANINGS",
    "SCHEMA_ID",
    "canonical_json",
    "check_ending",
    "check_picture",
    "digest",
    "error_rate",
    "error_record",
    "model_fields",
    "percent",
    "printable",
    "record_to_html",
    "record_to_markdown",
    "replacing",
    "save",
    "schema",
    "to_html",
    "to_json",
    "to_markdown",
    "to_record",
    "write_atomically",
]
