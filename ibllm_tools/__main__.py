"""``python -m ibllm_tools`` is ``ibllm``."""

import sys

from ibllm_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
