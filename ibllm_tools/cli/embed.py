"""``ibllm embed``."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.terminal import report
from ibllm_tools.errors import IbllmError, InvalidRequestError

if TYPE_CHECKING:
    from torch import Tensor

    from ibllm_tools.attachments import Attachment

DESCRIPTION = """\
Write the joint embeddings of files: OUT.npy holds one float32 unit vector per file, in their order, and OUT.json
beside it says which file each row is and which encoder made them. A file that cannot be used is reported on stderr
and has no row; the exit code is then 2."""
EXAMPLES = """\
examples:
  ibllm embed bell.wav bell.png bell.glb -o bells.npy
  ibllm embed bell.wav --model checkpoints/imagebind-huge --dtype bfloat16 -o bell.npy
  python -c "import numpy; rows = numpy.load('bells.npy'); print(rows @ rows.T)"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, output, options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=shared.FILES_HELP)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT.npy", help="the file to write")
    shared.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Embed every file that can be used."""
    output: Path = options.output
    if output.suffix != ".npy":
        raise InvalidRequestError(f"{output}: expected a name that ends in .npy; OUT.json is written beside it")
    files = shared.open_files(options.files, shared.access(options))
    usable = [(file, item) for file, item in files if not isinstance(item, IbllmError)]
    problems = [item for _, item in files if isinstance(item, IbllmError)]
    if usable:
        embedder = shared.load_embedder(options)
        vectors = embedder.embed_each([attachment for _, attachment in usable])
        problems += [vector for vector in vectors if isinstance(vector, IbllmError)]
        _write(output, usable, vectors, {"model": options.model, "fingerprint": embedder.fingerprint})
    for problem in problems:
        report(str(problem))
    return 2 if problems else 0


def _write(
    output: Path, files: "list[tuple[str, Attachment]]", vectors: "list[Tensor | IbllmError]", encoder: dict[str, str]
) -> None:
    """Write the rows there are and, beside them, what they are; nothing where there are none."""
    import numpy as np

    rows, records = [], []
    for (file, attachment), vector in zip(files, vectors, strict=True):
        if not isinstance(vector, IbllmError):
            rows.append(vector.numpy())
            records.append({"source": file, **attachment.model_dump()})
    if not rows:
        return
    summary = {**encoder, "rows": records}
    try:
        with output.open("wb") as target:
            np.save(target, np.stack(rows))  # (B, E)
        output.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{output}: cannot be written ({error.strerror}); choose another place") from error
