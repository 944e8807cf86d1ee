"""How long the embedded model takes to answer: warm in Python, cold from the shell, and where the time goes."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from report import publish, table

from ibllm_tools import Assistant, Attachment, VisualCache
from ibllm_tools.assistant.generation import generation_config
from ibllm_tools.assistant.loading import read_cache_features
from ibllm_tools.assistant.model_folder import CACHE_FILE, mini_folder
from ibllm_tools.imagebind_llm import mix_embeddings

REPOSITORY = Path(__file__).parents[1]
MEDIA = REPOSITORY / "examples" / "media"
IBLLM = Path(sys.executable).with_name("ibllm")
QUESTION = "What is it?"
WARM_RUNS, STAGE_RUNS, COLD_RUNS = 40, 20, 5
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def measure() -> str:
    """Both tables."""
    image = next(path for path in sorted(MEDIA.glob("*.png")) if Attachment(path).modality == "image")
    cold = [shell(["ask", QUESTION, str(image)]) for _ in range(COLD_RUNS)]
    helped = [shell(["--help"])[0] for _ in range(COLD_RUNS)]
    with Assistant.load() as assistant:
        answer = assistant.ask(QUESTION, image)
        warm = timed(lambda: assistant.ask(QUESTION, image), WARM_RUNS)
        resident = psutil.Process().memory_info().rss
        walk = stages(assistant, image)
    rows = [
        ["`Assistant.ask`, one image, warm", *spread(warm, milliseconds), f"{WARM_RUNS}"],
        ["`ibllm ask`, one image, cold", *spread([took for took, _ in cold], seconds), f"{COLD_RUNS}"],
        ["`ibllm --help`", *spread(helped, seconds), f"{COLD_RUNS}"],
        ["memory of `ibllm ask` at its peak", *spread([peak for _, peak in cold], mebibytes), f"{COLD_RUNS}"],
        ["memory of this process, warm", mebibytes(resident), "", "1"],
    ]
    return "\n\n".join(
        (
            table(["", "p50", "p90", "runs"], rows),
            f"`{image.name}`, “{QUESTION}”, “{answer.text}” ({answer.usage.completion_tokens} tokens, "
            f"{torch.get_num_threads()} threads). Where the time of a warm answer goes:",
            table(["stage", "p50", "p90"], walk),
        )
    )


def stages(assistant: Assistant, image: Path) -> list[list[str]]:
    """The walk from the file to the answer, one room after the other."""
    model, processor, limits = assistant.model, assistant.processor, assistant.access.limits
    config = generation_config(model.generation_config)
    cache = VisualCache.from_features(
        read_cache_features(mini_folder() / CACHE_FILE), fingerprint=assistant.embedder.fingerprint
    )
    attachment = assistant.access.open(image)
    pixels = processor.imagebind_processor.process("image", [attachment.source], limits=limits)
    with cache, torch.no_grad():
        embedding = mix_embeddings([model.imagebind.encode("image", pixels)])
        enhanced = cache.enhance(embedding)
        walk: dict[str, Callable[[], object]] = {
            "open: hash and identify": lambda: assistant.access.open(image),
            "decode and preprocess": lambda: processor.imagebind_processor.process(
                "image", [attachment.source], limits=limits
            ),
            "ImageBind": lambda: mix_embeddings([model.imagebind.encode("image", pixels)]),
            "visual cache": lambda: cache.enhance(embedding),
            "language model": lambda: model.generate(
                **processor(QUESTION), embeddings=enhanced, generation_config=config
            ),
        }
        return [[name, *spread(timed(stage, STAGE_RUNS), milliseconds)] for name, stage in walk.items()]


def timed(action: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each run, after three that warm up."""
    for _ in range(3):
        action()
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return taken


def shell(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall-clock seconds of an ``ibllm`` command, and the most memory that it held, in bytes."""
    began = time.perf_counter()
    process = subprocess.Popen([IBLLM, *arguments], stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ibllm {' '.join(arguments)} exited with {process.returncode}")
    return took, float(usage.ru_maxrss * MAXRSS_BYTES)


def spread(values: Sequence[float], unit: Callable[[float], str]) -> tuple[str, str]:
    """The median and the 90th percentile."""
    return unit(statistics.median(values)), unit(statistics.quantiles(values, n=10, method="inclusive")[-1])


def milliseconds(value: float) -> str:
    """For tables."""
    return f"{1000 * value:.1f} ms"


def seconds(value: float) -> str:
    """For tables."""
    return f"{value:.2f} s"


def mebibytes(value: float) -> str:
    """For tables."""
    return f"{value / 2**20:.0f} MiB"


if __name__ == "__main__":
    publish("ask", measure)
