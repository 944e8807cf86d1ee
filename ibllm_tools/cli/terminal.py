"""What reaches the terminal: answers on stdout, one line per error on stderr, nothing from libraries."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ibllm_tools.errors import one_line

_LONGEST = 4000
"""Characters of an error."""


def report(message: str) -> None:
    """State an error as one line on stderr, without what a terminal would obey."""
    print(f"ibllm: error: {one_line(message, _LONGEST)}", file=sys.stderr)


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
