"""A run's own log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.text import plain_text
from mcl_lab.runs.layout import RunFolder

LOGGER = logging.getLogger("mcl_lab")


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Everything logged goes into run.log, warnings to stderr as well."""
    file, screen = _File(RunFolder(folder).log, encoding="utf-8"), logging.StreamHandler()
    file.setFormatter(_SafeText("%(asctime)s %(levelname)s %(message)s"))
    screen.setFormatter(_SafeText("%(message)s"))
    screen.setLevel(logging.WARNING)
    # Errors reach the screen as the program's last line.
    screen.addFilter(lambda entry: entry.levelno == logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    for handler in (file, screen):
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, screen):
            LOGGER.removeHandler(handler)
            handler.close()


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log on a full disk misses lines; what must be whole is the checkpoint."""


class _SafeText(logging.Formatter):
    """No secrets, tracebacks included: run.log is an artifact in MLflow too. And as names of files and classes may hold
    anything: a message is one line, without characters that a terminal obeys or that UTF-8 does not have."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return plain_text(without_secrets(super().formatMessage(record)))

    def formatException(self, error) -> str:
        return "\n".join(map(plain_text, without_secrets(super().formatException(error)).splitlines()))
