"""Measured numbers as a markdown table, printed, and kept in RESULTS.md beside the machine that they come from."""

import argparse
import os
import platform
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """\
# Results

Each section is written by its script: `python benchmarks/<name>.py --write`. `make bench` runs them all but
`conversion.py`, which needs CLIP's vocabulary (`IBLLM_CLIP_BPE`) and 45 GB of disk. `visual_cache.py` measures three
million features only where `IBLLM_CACHE_SIZES` names them.
"""
PACKAGES = ("ibllm-tools", "torch", "transformers", "chromadb")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """The processor, its cores, the memory, and the versions that decide about speed, in one paragraph."""
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory; "
        f"Python {platform.python_version()}, {versions}."
    )


def publish(name: str, measure: Callable[[], str]) -> None:
    """Print a measurement; with ``--write`` on the command line also make it its section of RESULTS.md."""
    parser = argparse.ArgumentParser(description=f"Measure: {name}.")
    parser.add_argument("--write", action="store_true", help=f"update the section in {RESULTS.name}")
    wanted = parser.parse_args()
    section = f"## {name}\n\n{machine()}\n\n{measure()}\n"
    print(section)
    if wanted.write:
        RESULTS.write_text(_with_section(name, section), encoding="utf-8")


def _with_section(name: str, section: str) -> str:
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    old = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if old is None:
        return f"{text.rstrip()}\n\n{section}"
    after = text[old.end() :]
    return text[: old.start()] + section + ("\n" + after if after else "")


def _processor() -> str:
    """Its name; only Linux tells it in a file."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
