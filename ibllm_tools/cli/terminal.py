"""What reaches the terminal: answers on stdout, one line per error on stderr, nothing from libraries."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ibllm_tools.errors import one_line

INTERRUPTED = 130
"""Exit code."""

_LONGEST = 4000
"""Characters of an error."""


def report(message: str) -> None:
    """State an error as one line on stderr, without what a terminal would obey."""
    print(f"ibllm: error: {one_line(message, _LONGEST)}", file=sys.stderr)


def shown(text: object, longest: int = 120) -> str:
    """Foreign text as a part of one line of output, without what a terminal would obey, shortened."""
    return one_line("".join(letter if letter.isprintable() else " " for letter in str(text)[: 2 * longest]), longest)


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process on the spot: for imports, some of which swallow it, and others break halfway."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    before = signal.signal(signal.SIGINT, _exit_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_interrupted(*_: object) -> None:
    os.write(sys.stderr.fileno(), b"\n")
    os._exit(INTERRUPTED)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence warnings, unless ``python -W`` or PYTHONWARNINGS asks for them, and logs that nobody handles."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(handler)
