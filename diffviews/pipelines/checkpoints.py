"""The `checkpoints` command: public checkpoints that are known by name."""

from diffviews.data.checkpoint_catalog import catalogue
from diffviews.data.disk import format_bytes
from diffviews.errors import ConfigError, unknown_name


def checkpoints(adapter: str | None = None) -> str:
    """List the public checkpoints known by name, with their licences.

    Args:
        adapter: only those for this adapter; null lists all.
    """
    entries = [entry for entry in catalogue() if adapter in (None, entry.adapter)]
    if not entries:
        known = sorted({entry.adapter for entry in catalogue()})
        raise ConfigError(unknown_name("adapter with a catalogue checkpoint", str(adapter), known))
    rows = [("name", "adapter", "steps", "size", "licence", "what")]
    for entry in entries:
        size = format_bytes(entry.size) if entry.size else "?"
        rows.append((entry.name, entry.adapter, str(entry.steps or "any"), size, entry.licence, entry.note))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "Their licences are their authors'; fetching one means agreeing to it."])
