"""From a name, a folder or an address to a backbone. One table; nothing is decided by what a name contains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from vlmforensics.errors import AdapterMismatch, MissingExtra, SettingsError, WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.vlm.base import Backbone

FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
"""What is taken from a hub repository: no pickles, no code."""


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        kind: ``embedded`` (a function of ours) or ``hub`` (a repository of the Hugging Face hub).
        target: ``module:function`` called with the settings, or the repository.
        revision: the hub commit that was read when the prompt profile was written.
        profile: name of the prompt profile, see ``llava.PROFILES``.
        about: one line for people.
    """

    kind: Literal["embedded", "hub"]
    target: str
    revision: str = ""
    profile: str = ""
    about: str = ""


BACKBONES: Mapping[str, Entry] = {
    "compact": Entry("embedded", "vlmforensics.compact:load", about="157 M parameters, any CPU"),
    "llava-1.5-7b": Entry(
        "hub",
        "llava-hf/llava-1.5-7b-hf",
        "b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        "general",
        "LLaVA-1.5 7B, one GPU (4-bit: 6 GB, bfloat16: 16 GB)",
    ),
    "fakevlm": Entry(
        "hub",
        "lingcco/fakeVLM",
        "a1cebc1da1a524d79869271a396158e297d7087b",
        "fakevlm",
        "FakeVLM 7B as published, one GPU; licence CC-BY-NC-4.0",
    ),
}


def load_backbone(name: str, settings: Settings | None = None) -> Backbone:
    """The backbone called ``name``.

    Args:
        name: a name in ``BACKBONES``, a checkpoint or adapter folder, or ``http(s)://…/v1``.
        settings: cache, device, offline, whether remote backbones are allowed.

    Raises:
        WeightsUnavailable: no such name or folder, or weights that can't be had now.
        ModelError: weights that don't fit, a remote backbone that is not allowed.
        MissingExtra: a package is not installed.
    """
    settings = settings or Settings()
    entry = BACKBONES.get(name)
    try:
        if entry is not None and entry.kind == "embedded":
            return _embedded(name, entry, settings)
        if entry is not None:
            from vlmforensics.vlm.llava import PROFILES, LlavaBackbone

            folder, profile = hub_folder(name, entry, settings), PROFILES[entry.profile]
            return LlavaBackbone.load(folder, settings, name=name, profile=profile, adapter=settings.adapter)
        if name.startswith(("http://", "https://")):
            from vlmforensics.vlm.remote import RemoteBackbone

            if settings.adapter is not None:
                raise SettingsError(
                    "an adapter can't be sent to a server: load it there, or use a local model"
                )
            return RemoteBackbone.connect(name, settings)
        if Path(name).expanduser().is_dir():
            return _local(Path(name).expanduser(), settings)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "vlmforensics":
            raise
        extra = "remote" if error.name == "httpx" else "model"
        message = f'the backbone {name} needs {error.name}: pip install "vlmforensics[{extra}]"'
        raise MissingExtra(message, code=f"extra.{extra}") from error
    raise WeightsUnavailable(
        f"no backbone is called {name!r}: use {', '.join(BACKBONES)}, a checkpoint folder or http(s)://…/v1"
    )


def _embedded(name: str, entry: Entry, settings: Settings) -> Backbone:
    """A model of ours; its adapter is a folder of the layout that it ships with."""
    module, _, function = entry.target.partition(":")
    load = getattr(import_module(module), function)
    if settings.adapter is None:
        return cast(Backbone, load(settings))
    if not (settings.adapter / f"{name}.json").is_file():
        raise AdapterMismatch(
            f"{settings.adapter} holds no {name}.json: an adapter for {name} is the folder that its training exports"
        )
    return cast(Backbone, load(settings, settings.adapter))


def _local(folder: Path, settings: Settings) -> Backbone:
    """A checkpoint folder, or an adapter folder with the base that it names."""
    if (folder / "compact.json").is_file():  # the layout that the compact model ships in and trains to
        return cast(Backbone, import_module("vlmforensics.compact.shipped").load(settings, folder))
    from vlmforensics.vlm.llava import PROFILES, LlavaBackbone, base_of_adapter
    from vlmforensics.vlm.profiles import profile_of
    from vlmforensics.vlm.sida import SidaBackbone

    if not (folder / "adapter_config.json").is_file():
        if profile_of(folder).name == "sida":
            return SidaBackbone.load(folder, settings, name=folder.resolve().name, adapter=settings.adapter)
        return LlavaBackbone.load(folder, settings, name=folder.resolve().name, adapter=settings.adapter)
    if settings.adapter is not None:
        raise SettingsError(
            f"{folder} is an adapter itself: name its base with --model, and the adapter once"
        )
    base = base_of_adapter(folder)
    entry = next((e for n, e in BACKBONES.items() if e.kind == "hub" and base in (n, e.target)), None)
    if entry is not None:
        found, profile = hub_folder(base, entry, settings), PROFILES[entry.profile]
        return LlavaBackbone.load(found, settings, name=base, profile=profile, adapter=folder)
    if not Path(base).is_dir():
        raise WeightsUnavailable(f"the adapter in {folder} belongs to {base!r}, which is not here")
    return LlavaBackbone.load(Path(base), settings, name=Path(base).name, adapter=folder)


def hub_folder(name: str, entry: Entry, settings: Settings) -> Path:
    """The checkpoint's folder in the hub's own cache, downloaded first where it is absent and the network allowed.

    Raises:
        WeightsUnavailable: absent and offline, or the download failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    arguments: dict[str, Any] = {
        "repo_id": entry.target,
        "revision": entry.revision,
        "allow_patterns": FILES,
    }
    try:
        return Path(snapshot_download(**arguments, local_files_only=True))
    except LocalEntryNotFoundError:
        if settings.offline:
            raise WeightsUnavailable(
                f"{name} is not in the hub cache and the network is switched off; run "
                f"`hf download {entry.target} --revision {entry.revision}` with the network on"
            ) from None
    try:
        return Path(snapshot_download(**arguments))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsUnavailable(f"{entry.target} can't be downloaded: {error}") from error
