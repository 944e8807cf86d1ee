"""``ibllm doctor``."""

import argparse
import hashlib
import math
import platform
import re
from collections import defaultdict
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, Field

from ibllm_tools.errors import IbllmError, ModelError

DESCRIPTION = """\
Show what is installed, which extras are missing and how to install them, where the model computes, and where the model
comes from. The exit code is 2 when questions cannot be answered here."""
EXAMPLES = """\
examples:
  ibllm doctor
  ibllm doctor --json --model checkpoints/imagebind-llm-7b
"""
DISTRIBUTION = "ibllm-tools"
REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;\s*extra\s*==\s*[\"']([\w.-]+)[\"'])?$")
HIDDEN_EXTRAS = ("all", "dev")
ANSWERING = "imagebind_llm"


class Extra(BaseModel):
    """An optional group of packages."""

    name: str
    installed: bool
    missing: list[str] = Field(description="Packages that are not installed.")
    install: str = Field(description="The command that installs it.")


class ModelFiles(BaseModel):
    """A model on disk."""

    name: str
    folder: str
    type: str | None = Field(description="'imagebind_llm' answers questions; 'imagebind' embeds files.")
    files: list[str] = Field(description="Files with weights.")
    sha256: str = Field(description="SHA-256 over the files with weights, in their order.")
    bytes: int = Field(description="Bytes of the files with weights.")
    parameters: int
    cached_images: int = Field(description="Image features of the visual cache; 0 without one.")


class Report(BaseModel):
    """What is here, and what is not."""

    version: str
    python: str
    platform: str
    packages: dict[str, str | None] = Field(description="Version of each required package; null where it is missing.")
    extras: list[Extra]
    device: str = Field(description="Where models compute by default.")
    model: ModelFiles | None
    problems: list[str] = Field(description="Why questions cannot be answered here; empty when they can.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--json", action="store_true", help="print the report as a JSON object")
    parser.add_argument("--model", default="mini", metavar="MODEL", help="the model to look at; 'mini' by default")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    report = examine(options.model)
    print(report.model_dump_json(indent=2) if options.json else as_text(report))
    return 2 if report.problems else 0


def examine(model: str) -> Report:
    """Look at this installation and at a model."""
    packages, extras = _packages()
    problems = [f"{name} is not installed: pip install {DISTRIBUTION}" for name, found in packages.items() if not found]
    device, files = "unknown", None
    try:
        device = _device()
    except ImportError as error:
        problems.append(f"torch cannot be imported ({error}); install it again")
    try:
        files = _model_files(model)
    except IbllmError as error:
        problems.append(str(error))
    if files is not None and files.type != ANSWERING:
        problems.append(
            f"{model}: of type {files.type!r}, which answers no questions; `ibllm embed` takes an ImageBind"
        )
    return Report(
        version=metadata.version(DISTRIBUTION),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages,
        extras=extras,
        device=device,
        model=files,
        problems=problems,
    )


def as_text(report: Report) -> str:
    """The report for a person."""
    lines = [
        f"{DISTRIBUTION} {report.version}, Python {report.python}, {report.platform}",
        "packages  " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in report.packages.items()),
    ]
    for extra in report.extras:
        state = "installed" if extra.installed else f"missing {', '.join(extra.missing)}: {extra.install}"
        lines.append(f"extra     {extra.name}: {state}")
    lines.append(f"device    {report.device}")
    if report.model is not None:
        lines += [
            f"model     {report.model.name}: {report.model.folder}",
            f"          {report.model.parameters:,} parameters, {report.model.bytes:,} bytes",
            f"          sha256 {report.model.sha256}",
            f"          visual cache of {report.model.cached_images:,} images"
            if report.model.cached_images
            else "          no visual cache",
        ]
    return "\n".join([*lines, *(f"PROBLEM   {problem}" for problem in report.problems)])


def _packages() -> tuple[dict[str, str | None], list[Extra]]:
    """What the installed distribution says it needs, and what of it is there."""
    needed: defaultdict[str, list[str]] = defaultdict(list)
    for requirement in metadata.requires(DISTRIBUTION) or []:
        if match := REQUIREMENT.match(requirement):
            needed[match[2] or ""].append(match[1])
    extras = []
    for name, packages in needed.items():
        if name and name not in HIDDEN_EXTRAS:
            missing = [package for package in packages if _version(package) is None]
            install = f"pip install '{DISTRIBUTION}[{name}]'"
            extras.append(Extra(name=name, installed=not missing, missing=missing, install=install))
    return {name: _version(name) for name in needed[""]}, extras


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)"


def _model_files(model: str) -> ModelFiles:
    """The files of a model; the weights are counted and hashed, not loaded."""
    from ibllm_tools.assistant.model_folder import CACHE_FILE, find_cache, find_model
    from ibllm_tools.checkpoints.writing import model_type

    folder = find_model(model)
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != CACHE_FILE)
    digest = hashlib.sha256()
    for file in files:
        _hash_into(digest, file)
    return ModelFiles(
        name=model,
        folder=str(folder),
        type=None if (kind := model_type(folder)) is None else str(kind),
        files=[file.name for file in files],
        sha256=digest.hexdigest(),
        bytes=sum(file.stat().st_size for file in files),
        parameters=sum(math.prod(shape) for file in files for shape in _shapes(file).values()),
        cached_images=_cached_images(find_cache(True, folder)),
    )


def _cached_images(cache: str | Path | None) -> int:
    """How many features the cache that a model is shipped with holds, without its engine."""
    from ibllm_tools.assistant.model_folder import CACHE_TENSOR
    from ibllm_tools.store.cache_info import NAME
    from ibllm_tools.store.database_file import DatabaseFile

    if cache is None:
        return 0
    if Path(cache).is_file():
        return _shapes(Path(cache)).get(CACHE_TENSOR, [0])[0]
    with DatabaseFile.open(Path(cache), running=True) as file:
        return file.records(NAME)


def _shapes(file: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a file, from its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: not a readable file of weights ({error}); download the model again") from error


def _hash_into(digest: "hashlib._Hash", file: Path) -> None:
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
