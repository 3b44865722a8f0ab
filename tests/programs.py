"""The programs that tests drive and pip does not bring: where they are, and how they come.

`python -m tests.programs` brings what is missing where it may, as root on a machine with apt-get, and never fails:
what does not come is skipped by the tests that need it, which say how to bring it.
"""

import os
import pwd
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

_WITH_CHROMIUM = ("fonts-dejavu-core", "libatomic1")  # the second is for Playwright's driver
PACKAGES = {
    "Chromium": (("chromium-headless-shell", *_WITH_CHROMIUM), ("chromium", *_WITH_CHROMIUM)),
    "PostgreSQL": (("postgresql",),),
}
"""Debian's packages of each, as one set or another where that is not to be had."""
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""The best first: without windows to draw, the headless shell opens a page with two thirds of the others' work."""
NO_CHROMIUM = (
    f"no Chromium here that Playwright drives; to bring it: apt-get install {' '.join(PACKAGES['Chromium'][0])}, "
    "or playwright install --with-deps chromium"
)
NO_POSTGRES = f"no PostgreSQL here; to bring it: apt-get install {' '.join(PACKAGES['PostgreSQL'][0])}"

ASK_PLAYWRIGHT = """
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
"""


@cache
def chromium() -> Path | None:
    """Return the browser: the system's, without windows where it has that, else the one that `playwright install`
    brought; None where there is none."""
    asked = subprocess.run([sys.executable, "-c", ASK_PLAYWRIGHT], capture_output=True, text=True, check=False)
    if asked.returncode != 0:  # its driver does not start on a bare machine
        return None
    found = map(shutil.which, BROWSERS)
    places = [Path(place) for place in (*found, asked.stdout.strip()) if place]
    return next((place for place in places if place.exists()), None)


@cache
def postgres() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs (initdb, postgres, pg_dump), None where there is none."""
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    folders = sorted(packaged, key=lambda folder: float(folder.parent.name), reverse=True)
    if found := shutil.which("postgres"):
        folders.append(Path(found).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def postgres_user() -> str | None:
    """Return the user that PostgreSQL runs as: it refuses root; None is the one who runs the tests."""
    if os.getuid() != 0:
        return None
    return "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"


def _apt_get(*words: str) -> bool:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(["apt-get", "-qq", *words], env=quiet, stdout=subprocess.DEVNULL, check=False).returncode == 0


def bring() -> None:
    """Install what is missing where that is allowed; otherwise say what is missing, and what would bring it."""
    missing = [name for name, find in (("Chromium", chromium), ("PostgreSQL", postgres)) if find() is None]
    if not missing:
        return
    if os.getuid() == 0 and shutil.which("apt-get"):
        sys.stdout.write(f"Installing {' and '.join(missing)} for the tests …\n")
        sys.stdout.flush()
        _apt_get("update")
        for name in missing:
            any(_apt_get("install", "-y", "--no-install-recommends", *packages) for packages in PACKAGES[name])
        chromium.cache_clear()
        postgres.cache_clear()
    for find, how in ((chromium, NO_CHROMIUM), (postgres, NO_POSTGRES)):
        if find() is None:
            sys.stdout.write(f"Tests that need it are skipped: {how}\n")


if __name__ == "__main__":
    bring()
