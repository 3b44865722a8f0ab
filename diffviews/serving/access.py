"""What a remote caller may have a worker open: nothing on its disk or the network that its owner did not name."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from diffviews.data.checkpoint_catalog import PREFIX, catalogue, find_checkpoint
from diffviews.data.storage.fetch import is_remote
from diffviews.errors import ConfigError, unknown_name
from diffviews.tracking.models import SCHEME


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Checkpoints and data sets that a worker opens for others."""

    checkpoints: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of further checkpoints: absolute paths or addresses."""
    datasets: tuple[str, ...] = ()
    """Patterns of further data sets, for example `folder:/data/*`."""

    def check_checkpoint(self, checkpoint: str | None, noted: str | None = None) -> None:
        """Refuse a checkpoint that is neither public, registered, noted on the layer run nor allowed.

        Args:
            checkpoint: as asked for; None is the model's own.
            noted: what the parameters of the layer run name.

        Raises:
            ConfigError: saying what is allowed.
        """
        if checkpoint is None or (noted and checkpoint == noted):
            return
        if checkpoint.startswith(SCHEME) or _is_public(checkpoint) or _matches(checkpoint, self.checkpoints):
            return
        public = [entry.name for entry in catalogue()]
        near = unknown_name("catalogue checkpoint", checkpoint, public) if "/" not in checkpoint else ""
        raise ConfigError(
            f"checkpoint {checkpoint[:200]!r} is not opened for a remote caller; take models:/name/version, a name of "
            "the catalogue, the checkpoint of the layer run, or start the worker with --allow_checkpoints"
            + (f" ({near})" if near else "")
        )

    def check_dataset(self, dataset: str) -> None:
        """Refuse a data set that is neither shipped, logged nor allowed.

        Raises:
            ConfigError: saying what is allowed.
        """
        kind, _, place = dataset.partition(":")
        if dataset == "digits" or kind == "run":
            return
        if any(
            pattern.partition(":")[0] == kind and _matches(place, (pattern.partition(":")[2],))
            for pattern in self.datasets
        ):
            return
        raise ConfigError(
            f"dataset {dataset[:200]!r} is not opened for a remote caller; take digits or run:<id>, or start the "
            "worker with --allow_datasets"
        )


def _is_public(checkpoint: str) -> bool:
    """Tell whether it is a name of the catalogue, and not that of a file in the worker's folder."""
    return find_checkpoint(checkpoint) is not None and (
        checkpoint.startswith(PREFIX) or not Path(checkpoint).exists()
    )


def _matches(place: str, patterns: Sequence[str]) -> bool:
    """Tell whether a place matches a pattern; a path does by what it leads to, links and `..` resolved."""
    if is_remote(place):
        return ".." not in place.split("/") and any(fnmatchcase(place, pattern) for pattern in patterns)
    found = str(Path(place).resolve())
    return any(fnmatchcase(found, pattern) for pattern in patterns)
