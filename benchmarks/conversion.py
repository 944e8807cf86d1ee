"""What it takes to convert official weights of the published sizes, and to use them: time, memory, disk.

The weights are random, in the official formats; only CLIP's vocabulary has to be the real one: ``IBLLM_CLIP_BPE`` says
where it lies. Needs 45 GB of disk below ``TMPDIR`` while it runs, and 20 GiB of memory.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from random_checkpoints import write_adapter, write_imagebind, write_llama
from report import publish, table

REPOSITORY = Path(__file__).parents[1]
MEDIA = REPOSITORY / "examples" / "media"
IBLLM = Path(sys.executable).with_name("ibllm")
SAMPLES = ("bell.png", "bell.wav", "helicopter.mp4", "duck.glb")
QUESTION = "What is it?"
TOKENS = 16
SAMPLED_EVERY = 0.1
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    resident: float
    """Bytes of memory at the peak, files that are mapped into it included."""
    anonymous: float
    """Bytes at the peak that belong to the process alone; mapped files can be dropped and read again."""
    output: str

    def row(self, what: str, disk: float) -> list[str]:
        """For the table."""
        return [
            what,
            f"{self.seconds:.0f} s",
            f"{self.resident / 2**30:.1f} GiB",
            f"{self.anonymous / 2**30:.1f} GiB",
            f"{disk / 1e9:.1f} GB" if disk else "",
        ]


def measure() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as place:
        return _measured(Path(place))


def _measured(place: Path) -> str:
    imagebind, adapter, llama = place / "imagebind_w3D.pth", place / "7B.pth", place / "llama"
    vocabulary = os.environ.get("IBLLM_CLIP_BPE")
    if not vocabulary:
        raise SystemExit("set IBLLM_CLIP_BPE to CLIP's bpe_simple_vocab_16e6.txt.gz")
    write_imagebind(imagebind)
    towers = place / "imagebind"
    rows = [
        ibllm("convert", "imagebind", imagebind, "--clip-tokenizer", vocabulary, "-o", towers).row(
            "`convert imagebind`, float32", _size(towers)
        )
    ]
    imagebind.unlink()
    for dtype in ("float32", "bfloat16"):
        files = [MEDIA / name for name in SAMPLES]
        embedded = ibllm("embed", *files, "--model", towers, "--dtype", dtype, "-o", place / "vectors.npy")
        rows.append(embedded.row(f"`embed` an image, a sound, a video and a mesh, {dtype}", 0))
    write_llama(llama)
    write_adapter(adapter)
    model = place / "imagebind-llm-7b"
    command = ("convert", "imagebind-llm", adapter, "--llama", llama, "--imagebind", towers, "--dtype", "bfloat16")
    rows.append(ibllm(*command, "-o", model).row("`convert imagebind-llm`, bfloat16", _size(model)))
    for file in (adapter, llama / "7B" / "consolidated.00.pth", *towers.glob("*.safetensors")):
        file.unlink()
    options = ("--model", model, "--max-new-tokens", str(TOKENS))
    answer = ibllm("ask", QUESTION, MEDIA / "bell.wav", *options)
    rows.append(answer.row(f"`ask` about a sound, {TOKENS} tokens, 7 B in bfloat16, from the shell", 0))
    if not answer.output.strip():
        raise SystemExit("the 7 B model said nothing")
    return table(["command", "time", "memory at the peak", "of it private", "on disk"], rows)


def ibllm(*arguments: str | Path) -> Cost:
    """Run an ``ibllm`` command and look at its memory while it runs."""
    began = time.perf_counter()
    command: Sequence[str] = [str(IBLLM), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    resident = anonymous = 0
    while process.poll() is None:
        seen = _memory(process.pid)
        resident, anonymous = max(resident, seen.get("VmHWM", 0)), max(anonymous, seen.get("RssAnon", 0))
        time.sleep(SAMPLED_EVERY)
    if process.returncode:
        raise SystemExit(f"ibllm {' '.join(command[1:])} exited with {process.returncode}")
    assert process.stdout is not None
    return Cost(time.perf_counter() - began, resident, anonymous, process.stdout.read())


def _memory(pid: int) -> dict[str, int]:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return {}
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB$", status, re.MULTILINE)}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    publish("conversion", measure)
