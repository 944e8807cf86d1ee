"""The toolbox of a server, loaded while clients connect already."""

from __future__ import annotations

import logging
from threading import Lock, Thread
from typing import TYPE_CHECKING

from ibllm_tools.errors import IbllmError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibllm_tools.toolbox import Toolbox

logger = logging.getLogger(__name__)


class LazyToolbox:
    """A toolbox that is loaded once, by whoever needs it first. It may be used from several threads at once.

    Args:
        load: loads it; called again by the next who needs it where it raised.
        close: gives back what was loaded.
    """

    def __init__(self, load: Callable[[], Toolbox], close: Callable[[Toolbox], None] = lambda _: None) -> None:
        self._load, self._close = load, close
        self._toolbox: Toolbox | None = None
        self._lock = Lock()
        self._begun = self._closed = False

    @property
    def is_loaded(self) -> bool:
        """Whether `get` returns at once."""
        return self._toolbox is not None

    def get(self) -> Toolbox:
        """The toolbox; it takes seconds where it is not loaded.

        Raises:
            IbllmError: the model or the library cannot be opened.
            StoreError: it is closed.
        """
        with self._lock:
            if self._closed:
                raise StoreError("the server is shutting down; ask again when it is up")
            if self._toolbox is None:
                self._toolbox = self._load()
            return self._toolbox

    def begin(self) -> None:
        """Load it in the background; what is wrong is logged, and raised by whoever needs it."""
        if not self._begun:
            self._begun = True
            Thread(target=self._try, name="ibllm-mcp-loading").start()

    def close(self) -> None:
        """Give back what was loaded, after a loading that has begun has ended. Closing twice does nothing."""
        with self._lock:
            toolbox, self._toolbox, self._closed = self._toolbox, None, True
            if toolbox is not None:
                self._close(toolbox)

    def _try(self) -> None:
        try:
            self.get()
        except IbllmError as error:
            if not self._closed:
                logger.error("%s", error)
        except Exception:
            logger.exception("the model and the library cannot be loaded")
