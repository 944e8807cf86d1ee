"""bitsandbytes without code from the hub.

On processors with AVX512-BF16 it fetches a compiled kernel from the hub while it is imported, if it finds the package
``kernels``. Nobody asked for that, and it has a kernel of its own.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_hub_kernels() -> Iterator[None]:
    """Import bitsandbytes, or what imports it, in here: nothing is fetched, and it warns of nothing."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 would warn at every layer of every token
    kernels = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels
