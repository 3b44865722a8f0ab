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

PACKAGES = {"Chromium": ("chromium", "fonts-dejavu-core", "libatomic1"), "PostgreSQL": ("postgresql",)}
"""Debian's packages of each; Playwright's driver wants the last of Chromium's."""
NO_CHROMIUM = (
    f"no Chromium here that Playwright drives; to bring it: apt-get install {' '.join(PACKAGES['Chromium'])}, "
    "or playwright install --with-deps chromium"
)
NO_POSTGRES = f"no PostgreSQL here; to bring it: apt-get install {' '.join(PACKAGES['PostgreSQL'])}"

ASK_PLAYWRIGHT = """
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
"""


@cache
def chromium() -> Path | None:
    """Return the browser: the system's, else the one that `playwright install` brought; None where there is none."""
    asked = subprocess.run([sys.executable, "-c", ASK_PLAYWRIGHT], capture_output=True, text=True, check=False)
    if asked.returncode != 0:  # its driver does not start on a bare machine
        return None
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
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


def bring() -> None:
    """Install what is missing where that is allowed; otherwise say what is missing, and what would bring it."""
    missing = [name for name, find in (("Chromium", chromium), ("PostgreSQL", postgres)) if find() is None]
    if not missing:
        return
    if os.getuid() == 0 and shutil.which("apt-get"):
        packages = [package for name in missing for package in PACKAGES[name]]
        sys.stdout.write(f"Installing {' '.join(packages)} for the tests …\n")
        sys.stdout.flush()
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *words], env=quiet, stdout=subprocess.DEVNULL, check=False)
        chromium.cache_clear()
        postgres.cache_clear()
    for find, how in ((chromium, NO_CHROMIUM), (postgres, NO_POSTGRES)):
        if find() is None:
            sys.stdout.write(f"Tests that need it are skipped: {how}\n")


if __name__ == "__main__":
    bring()
