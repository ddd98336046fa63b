"""The coordinator's log: one file that is rotated, for its owner only, in which no token can stand."""

from __future__ import annotations

import logging
import os
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedkit_server.tokens import SECRETS

MOST_BYTES, KEPT = 10 * 2**20, 5


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The line or traceback, without tokens and invitations."""
        return SECRETS.sub("[secret]", super().format(record))


def configure(path: Path, *, screen: bool) -> None:
    """Send every logger of this process to a file, and to standard error as well if ``screen``.

    Guarantee: nothing that looks like a token or an invitation is written.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    path.chmod(0o600)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8")
    ]
    if screen:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("fedkit").setLevel(logging.INFO)
    flower = logging.getLogger("flwr")
    # Flower writes to the screen by a handler of its own.
    for own in list(flower.handlers):
        flower.removeHandler(own)
    flower.propagate = True
    logging.captureWarnings(True)
    threading.excepthook = _log_thread


def _log_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is not SystemExit:
        name = arguments.thread.name if arguments.thread else "a thread"
        found = (arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback)
        logging.getLogger("fedkit.server").error("%s ended", name, exc_info=found)
