"""Hostile text made harmless: decoded defensively, capped, hidden and directional characters escaped."""

from __future__ import annotations

import re
import unicodedata

MAX_TEXT = 65_536
"""Characters of one metadata value that are kept; longer ones end in a note of how many were cut."""

# Everything that can hide or reorder text: C0 and C1 controls (but tab and line feed), zero-width and
# directional marks, line and paragraph separators, surrogates, interlinear marks, non-characters, tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)


def clean(text: str | bytes, cap: int = MAX_TEXT) -> str:
    r"""Make text from a file safe to carry; whoever shows it still escapes for HTML, Markdown or CSV.

    Line ends become ``\n``; tab and line feed stay (generation parameters are laid out in lines); other
    control, zero-width and directional characters become visible escapes such as ``\u202e``.

    Args:
        text: text, or bytes read as UTF-8 where they are that and as Latin-1 where not.
        cap: characters kept.

    Returns:
        Normalised (NFC) text of at most ``cap`` characters before escaping, without trailing NULs and blanks.
    """
    if isinstance(text, bytes):
        # Four bytes a character at most: cut first, so that a huge value is never decoded whole.
        extra = max(0, len(text) - 4 * cap)
        text = _decode(text[: 4 * cap], cut=extra > 0)
    else:
        extra = 0
    text = text.rstrip("\x00 \t\r\n")
    extra += max(0, len(text) - cap)
    text = unicodedata.normalize("NFC", text[:cap].replace("\r\n", "\n").replace("\r", "\n"))
    text = _HIDDEN.sub(_escape, text)
    return f"{text}… [{extra} more]" if extra else text


def _decode(data: bytes, *, cut: bool) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 3:  # a character cut by the cap
            return data[: error.start].decode("utf-8")
        return data.decode("latin-1")


def _escape(match: re.Match[str]) -> str:
    point = ord(match.group())
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
