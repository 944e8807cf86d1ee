"""From a worker's thread to the client: how far it is; and back: that it need not go on."""

import time
from types import TracebackType
from typing import Any, Self

import anyio.from_thread
import anyio.lowlevel
from mcp.server.mcpserver import Context

SECONDS = 0.1
"""Between two notifications."""


class Cancelled(Exception):  # noqa: N818  # nobody sees it: the call has returned
    """Nobody waits for this work any more."""


class ProgressBridge:
    """What a call tells its client, while it runs. Entered in the event loop; `tell` is for any thread.

    Args:
        context: of the call; without one there is nobody to tell.
    """

    def __init__(self, context: "Context[Any, Any] | None") -> None:
        self._context = context
        self._left = False
        self._last = -SECONDS

    def __enter__(self) -> Self:
        self._token = anyio.lowlevel.current_token()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True

    def require_wanted(self) -> None:
        """Stop a worker whose call has been cancelled.

        Raises:
            Cancelled: it has.
        """
        if self._left:
            raise Cancelled

    def tell(self, done: int, total: int) -> None:
        """Send a notification, if the last one was not just now.

        Raises:
            Cancelled: the call has been cancelled; what was done is kept.
        """
        self.require_wanted()
        now = time.monotonic()
        if self._context is not None and (done >= total or now - self._last >= SECONDS):
            self._last = now
            anyio.from_thread.run(self._context.report_progress, done, total, token=self._token)
