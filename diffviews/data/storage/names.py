"""Names of stored files, objects and artifacts: one rule keeps all of them inside their folder."""

from diffviews.errors import ConfigError, DiffViewsError


def is_plain_name(name: str) -> bool:
    """Say whether a name is a relative POSIX path that stays below its folder on every system."""
    parts = name.split("/")
    leads_out = any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0]
    return not leads_out and name.isprintable() and len(name) <= 1000


def check_name(name: str, refusal: type[DiffViewsError] = ConfigError) -> str:
    """Return a name that stays below its folder.

    Raises:
        ConfigError: or `refusal`, for an absolute one, '..', a backslash, a drive or a control character.
    """
    if not is_plain_name(name):
        raise refusal(
            f"the name {name[:200]!r} is not allowed; use a relative path such as 'map/points.parquet' without '..', "
            "'\\', ':' or control characters"
        )
    return name
