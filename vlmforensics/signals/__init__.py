"""Witnesses that measure: metadata, provenance, JPEG history, copies, noise, camera traces, spectra.

Each source is one file with one class and one line in :data:`SOURCES`; nothing is imported before it is used.
A source's ``name`` is the stable name of the evidence that it returns. Sources return raw scores, vectors or
codes; what those weigh is decided by calibration alone, and a source that calibration does not know weighs
nothing.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING

from vlmforensics.errors import Defect, SettingsError

if TYPE_CHECKING:
    from vlmforensics.settings import Settings
    from vlmforensics.types import EvidenceSource

SOURCES: tuple[str, ...] = (
    "vlmforensics.signals.generation:GenerationParameters",
    "vlmforensics.signals.editing:EditorTraces",
    "vlmforensics.signals.camera:CameraExif",
    "vlmforensics.signals.provenance:ContentCredentials",
    "vlmforensics.signals.thumbnail:Thumbnail",
    "vlmforensics.signals.jpeg_tables:JpegTables",
    "vlmforensics.signals.jpeg_double:JpegDouble",
    "vlmforensics.signals.jpeg_ghost:JpegGhost",
    "vlmforensics.signals.jpeg_grid:JpegGrid",
    "vlmforensics.signals.jpeg_votes:JpegVotes",
    "vlmforensics.signals.copymove:CopyMove",
    "vlmforensics.signals.noise:NoiseInconsistency",
    "vlmforensics.signals.clusters:ResidualClusters",
    "vlmforensics.signals.cfa:ColourFilterArray",
    "vlmforensics.signals.chromatic:ChromaticAberration",
    "vlmforensics.signals.spectrum:Spectrum",
    "vlmforensics.signals.upsampling:Upsampling",
    "vlmforensics.signals.cooccurrence:Cooccurrence",
    "vlmforensics.signals.texture:TextureContrast",
    "vlmforensics.signals.faces:Faces",
)
"""``module:Class`` of every source of the house, in the order in which a report lists them."""

PLUGIN_GROUPS = ("vlmforensics.signals", "vlmforensics.evidence")
"""Entry-point groups of third-party sources, see ``docs/plugins.md``; the second is the older name. They are read only
where the settings allow plugins."""


def _load(target: str, settings: Settings | None) -> EvidenceSource:
    module, _, name = target.partition(":")
    factory = getattr(import_module(module), name)
    # A source that opens bytes of its own, as an embedded preview, must keep to the user's limits.
    limited = "settings" in inspect.signature(factory).parameters
    source: EvidenceSource = factory(settings=settings) if limited else factory()
    return source


def load_sources(settings: Settings | None = None) -> list[EvidenceSource]:
    """Import and construct every source, those of plugins last where ``settings.allow_plugins`` is set.

    Raises:
        SettingsError: a plugin can't be loaded, or takes a name that is taken.
        Defect: two sources of the house share a name.
    """
    sources = [_load(target, settings) for target in SOURCES]
    if settings is not None and settings.allow_plugins:
        sources += _plugins({source.name for source in sources})
    if len({source.name for source in sources}) != len(sources):
        raise Defect("two evidence sources share a name")
    return sources


def _plugins(taken: set[str]) -> list[EvidenceSource]:
    """Load third-party sources, sorted by the name of their entry point."""
    from importlib.metadata import entry_points

    found: list[EvidenceSource] = []
    points = [point for group in PLUGIN_GROUPS for point in entry_points(group=group)]
    for point in sorted(points, key=lambda point: point.name):
        try:
            source: EvidenceSource = point.load()()
            name, _, _ = source.name, source.version, source.cost
        except Exception as error:  # third-party code may raise anything; the user must hear which plugin
            raise SettingsError(
                f"the evidence plugin {point.name} ({point.value}) can't be loaded: {error}"
            ) from error
        if name in taken:
            raise SettingsError(f"the evidence plugin {point.name} uses the name {name!r}, which is taken")
        taken.add(name)
        found.append(source)
    return found
