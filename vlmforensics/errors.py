"""Every error a user may meet, in three families: input (act on the file), model (act on the weights), defect (ours).

Each error has a stable ``code`` and says in its message what is wrong and what to do; ``file`` names the picture
where there is one. Anything else that escapes is a defect.
"""

from __future__ import annotations


class VlmForensicsError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: one sentence for the reader: what is wrong, and what to do where something can be done.
        code: stable dotted identifier, e.g. ``img.truncated``; defaults to the class's own.
        file: the picture's label as the user gave it, or None.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, file: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.file else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Keep code and file across process boundaries."""
        return (_rebuild, (type(self), self.message, self.code, self.file))


def _rebuild(cls: type[VlmForensicsError], message: str, code: str, file: str | None) -> VlmForensicsError:
    return cls(message, code=code, file=file)


class InputError(VlmForensicsError):
    """The picture can't be examined; the user can act on it."""

    code = "img"


class UnreadableFile(InputError):
    """The bytes can't be had: missing, a folder, no permission, empty."""

    code = "img.unreadable"


class UnsupportedImage(InputError):
    """The bytes are not a picture of an allowed format."""

    code = "img.unsupported"


class CorruptImage(InputError):
    """The bytes claim an allowed format but do not decode whole."""

    code = "img.corrupt"


class LimitExceeded(InputError):
    """The picture is over a limit of bytes, pixels, sides, frames, time or memory (see ``Settings``)."""

    code = "img.limit"


class SettingsError(VlmForensicsError):
    """A setting, argument or file of settings is wrong."""

    code = "settings"


class MissingExtra(VlmForensicsError):
    """An optional dependency is needed; the message names the extra to install."""

    code = "extra"


class ModelError(VlmForensicsError):
    """Weights or a backbone can't do what was asked."""

    code = "model"


class WeightsUnavailable(ModelError):
    """Weights are neither in the cache nor to be had now (offline, no such name)."""

    code = "model.unavailable"


class WeightsCorrupt(ModelError):
    """Weights do not have the digest, the keys or the shapes that they must have."""

    code = "model.corrupt"


class AdapterMismatch(ModelError):
    """An adapter does not belong to this base model: keys missing, unexpected, or of other shapes."""

    code = "model.adapter"


class RemoteError(ModelError):
    """A remote backbone did not answer as it must."""

    code = "model.remote"


class Defect(VlmForensicsError):
    """A mistake of ours; please report it."""

    code = "defect"
