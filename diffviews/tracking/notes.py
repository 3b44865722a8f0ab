"""A run's description in the MLflow UI: what it is in a sentence, its command, and a link to the dashboard."""

import os
from dataclasses import dataclass

from diffviews.errors import ConfigError

NOTE = "mlflow.note.content"
DASHBOARD = "DIFFVIEWS_DASHBOARD_URL"
MAX_SENTENCE, MAX_COMMAND = 3000, 4000
"""Characters that are shown; MLflow keeps 8,000. A longer command, of very many sample ids, is left to `replay`."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a run's description says; the UI renders it as Markdown, so names in it are written by `code`."""

    sentence: str
    command: str = ""
    """Command line that makes the run again; '' where there is none."""
    shown: bool = True
    """Whether the dashboard can open the run."""

    def text(self, run_id: str) -> str:
        """Return the description of run `run_id` in Markdown.

        Raises:
            ConfigError: if the dashboard's address is none.
        """
        base, sentence = dashboard_url(), self.sentence
        parts = [sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[: MAX_SENTENCE - 1]}…"]
        if len(self.command) > MAX_COMMAND:
            parts.append(f"Its command is too long to be shown; `diffviews replay {run_id}` repeats it.")
        elif self.command:
            fence = "```"
            while fence in self.command:
                fence += "`"
            parts.append(f"{fence}sh\n{self.command}\n{fence}")
        if base and self.shown:
            parts.append(f"[Open it in the dashboard]({base}?run={run_id})")
        return "\n\n".join(parts)


def dashboard_url() -> str | None:
    """Return where the dashboard is, from `DIFFVIEWS_DASHBOARD_URL`, such as http://host:5006/app; None: not known.

    Raises:
        ConfigError: if it is no web address.
    """
    url = os.environ.get(DASHBOARD, "").strip().rstrip("/")
    if url and (not url.startswith(("http://", "https://")) or any(c in url for c in " ()<>\n?#")):
        raise ConfigError(f"{DASHBOARD} is {url!r}; write the dashboard's address, such as http://host:5006/app")
    return url or None


def code(text: str) -> str:
    """Return a name as Markdown shows it letter by letter, on one line."""
    return f"`{' '.join(text.replace('`', 'ʼ').split()) or ' '}`"
