"""A model's folder: a `config.json` that names adapter and checkpoint, and what to sample with by default."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from diffviews.adapters.defaults import SamplingDefaults
from diffviews.data.storage.fetch import is_remote
from diffviews.errors import CheckpointError, ConfigError

_log = logging.getLogger(__name__)

FILES = ("base", "unet", "lora")
"""Keys that name further weights, options of the adapter's `from_checkpoint`."""
OPTIONS = ("lora_scale", "label_dropout")
"""Keys that are options of the adapter's `from_checkpoint` as they stand."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a folder's `config.json` says."""

    adapter: str
    """Adapter that loads the checkpoint."""
    checkpoint: str | None
    """Path of the weights, or their address; None takes the adapter's own."""
    files: dict[str, str] = field(default_factory=dict)
    """Further weights by option, paths or addresses."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the adapter."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Sampling defaults that replace the adapter's."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what a folder says, None when it has no `config.json` that names an adapter.

        Raises:
            CheckpointError: if the file is damaged, or names weights outside its folder.
        """
        path = folder / "config.json"
        if not path.is_file():
            return None
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}") from error
        if not isinstance(said, dict) or "adapter" not in said:
            return None
        known = {"adapter", "checkpoint", *FILES, *OPTIONS, *SamplingDefaults.names()}
        unused = sorted(said.keys() - known)
        if unused:
            _log.info("%s also says %s, which is not used", path, ", ".join(map(str, unused)))
        named = {name: _inside(folder, name, said[name]) for name in ("checkpoint", *FILES) if said.get(name)}
        return cls(
            adapter=str(said["adapter"]),
            checkpoint=named.pop("checkpoint", None),
            files=named,
            options={name: said[name] for name in OPTIONS if name in said},
            defaults={name: said[name] for name in SamplingDefaults.names() if name in said},
        )

    def check_adapter(self, model: str, folder: Path) -> None:
        """Refuse a folder that is of another adapter.

        Raises:
            ConfigError: naming both.
        """
        if self.adapter != model:
            raise ConfigError(f"{folder / 'config.json'} is for adapter {self.adapter!r}, not {model!r}; name that one")


def _inside(folder: Path, name: str, value: Any) -> str:
    """Return the place of weights that a `config.json` names: an address, or a path that stays in its folder."""
    text = str(value)
    if is_remote(text) or text.startswith("models:/"):
        return text
    place = (folder / text).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{folder / 'config.json'} names {name} {text!r}, which lies outside its folder; put it there, or give "
            "an address"
        )
    return str(place) if place.exists() else text
