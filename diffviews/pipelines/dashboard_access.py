"""Who may see the dashboard: the login that Panel reads from the environment, checked before it is trusted."""

import ipaddress
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from diffviews.errors import ConfigError

logger = logging.getLogger(__name__)

PASSWORDS, PROVIDER = "PANEL_BASIC_AUTH", "PANEL_OAUTH_PROVIDER"
COOKIES = ("PANEL_COOKIE_SECRET", "BOKEH_COOKIE_SECRET")
OAUTH_NEEDS = ("PANEL_OAUTH_KEY", "PANEL_OAUTH_SECRET", "PANEL_OAUTH_ENCRYPTION")


def check_access(address: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a login that would not hold, and warn of none where others can reach the dashboard.

    Args:
        address: that the dashboard listens on.
        environment: where Panel finds its settings.

    Raises:
        ConfigError: if the login is half set up, with what is missing; no value of it is named.
    """
    passwords, provider = environment.get(PASSWORDS), environment.get(PROVIDER)
    if passwords and provider:
        raise ConfigError(f"{PASSWORDS} and {PROVIDER} are both set; keep the login that is meant")
    if passwords:
        _check_passwords(Path(passwords))
    if provider:
        lacking = [name for name in OAUTH_NEEDS if not environment.get(name)]
        if lacking:
            raise ConfigError(f"the login by {provider} needs {', '.join(lacking)} as well")
    if passwords or provider:
        if not any(environment.get(name) for name in COOKIES):
            raise ConfigError(f"a login needs {COOKIES[0]}; set it to the output of: openssl rand -hex 32")
    elif not _is_this_machine(address):
        logger.warning("the dashboard has no login, and whoever reaches %s can generate with it", address)


def _check_passwords(path: Path) -> None:
    """Refuse what Panel would misread: it takes a name without a file for the password of everybody."""
    if not path.is_file():
        raise ConfigError(f"{PASSWORDS} names no file; it must be the path of a JSON file of names and passwords")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the passwords in {path} cannot be read: {type(error).__name__}") from None
    texts = [text for pair in held.items() for text in pair] if isinstance(held, dict) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f'the passwords in {path} must be a JSON object, {{"name": "password", …}}, and not empty')


def _is_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
