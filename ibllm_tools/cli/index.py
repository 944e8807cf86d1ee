"""``ibllm index``."""

import argparse
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.terminal import report
from ibllm_tools.errors import IbllmError, InvalidRequestError, one_line

if TYPE_CHECKING:
    from ibllm_tools.library import IndexFailure, IndexReport
    from ibllm_tools.store.segments import SegmentSettings

DESCRIPTION = """\
Add files to a media library, and make it where there is none. Folders are gone through for media; long sounds and
videos become timestamped segments, long texts chunks. What has not changed is passed over, what has is replaced, and a
file that was moved keeps its entries. A file that cannot be used is reported on stderr, the others are indexed, and the
exit code is 2. After Ctrl-C or a kill, the same command goes on where it was."""
EXAMPLES = """\
examples:
  ibllm index holiday --library library
  ibllm index 'podcasts/**/*.mp3' --library library --tag podcast --meta year=2024 --meta 'hosts=["Ann", "Bob"]'
  ibllm index holiday --library http://localhost:8000 --attachments thumbnails --caption --prune
"""
ENGINES = ("local", "ray")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, the library, what is said of the files, how they are cut."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="file, folder or glob; URL (with --allow-fetch) or data URI; - reads a file from stdin",
    )
    parser.add_argument(
        "--library", required=True, metavar="LIBRARY", help="its folder, or a Chroma server (http://host:port)"
    )
    shared.add_library_arguments(parser)
    parser.add_argument("--prune", action="store_true", help="afterwards, remove the sources whose files have gone")
    parser.add_argument("--strict", action="store_true", help="stop at the first file that cannot be used")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="where it is encoded: in this process, or on Ray (needs the extra 'ray')",
    )
    parser.add_argument("--json", action="store_true", help="print what became of the files as a JSON object")
    labels = parser.add_argument_group("what is said of the files")
    labels.add_argument("--title", metavar="T", help="their title; by default each one's name")
    labels.add_argument("--tag", action="append", dest="tags", metavar="T", help="a tag of theirs; can be repeated")
    labels.add_argument(
        "--meta",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="VALUE is a number, true, false or a list where it is JSON of one, and text otherwise; can be repeated",
    )
    labels.add_argument(
        "--caption", action="store_true", help="have the model write a caption of everything that is no text"
    )
    cut = parser.add_argument_group("how they are cut")
    cut.add_argument("--window", type=float, metavar="S", help="seconds of a segment of sound or video; 10 by default")
    cut.add_argument(
        "--step", type=float, metavar="S", help="seconds between their starts; by default half of the window"
    )
    cut.add_argument("--chunk-chars", type=int, metavar="N", help="characters of a chunk of text; 240 by default")
    shared.add_model_arguments(parser)
    # captions are written as `ibllm describe` writes by default
    parser.set_defaults(cache=None, cache_index=None, quantize=None)


def run(options: argparse.Namespace) -> int:
    """Index, and say what became of it."""
    settings, labels = _settings(options), _labels(options)
    sources, unusable = _sources(options)
    with ExitStack() as opened:
        captioner = opened.enter_context(shared.load_assistant(options)) if options.caption else None
        embedder = shared.load_embedder(options) if captioner is None else captioner.embedder
        library = opened.enter_context(
            shared.open_library(
                options,
                embedder=embedder,
                captioner=captioner,
                settings=settings,
                roots=options.roots,
                limits=shared.access(options).limits,
            )
        )
        engine = {} if options.engine == "local" else {"engine": options.engine}
        result = library.add(*sources, **labels, strict=options.strict, caption=options.caption, **engine)
        pruned = library.prune() if options.prune else None
    result = result.model_copy(update={"failures": (*unusable, *result.failures)})
    for failure in result.failures:
        report(failure.line)
    if options.json:
        print(json.dumps(result.model_dump() | ({} if pruned is None else {"pruned": pruned})))
    else:
        print(_summary(result, pruned))
    return 2 if result.failures else 0


def _settings(options: argparse.Namespace) -> "SegmentSettings":
    from pydantic import ValidationError

    from ibllm_tools.store.segments import DEFAULT_SETTINGS, SHORTEST_PIECE, SegmentSettings

    given: dict[str, Any] = {}
    if options.window is not None:
        given |= {"window_seconds": options.window, "step_seconds": options.window / 2}
    if options.step is not None:
        given["step_seconds"] = options.step
    if options.chunk_chars is not None:
        overlap = min(DEFAULT_SETTINGS.overlap_chars, max(options.chunk_chars, 0) // SHORTEST_PIECE)
        given |= {"chunk_chars": options.chunk_chars, "overlap_chars": overlap}
    try:
        return SegmentSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequestError(
            f"{' '.join(map(str, first['loc']))}: {first['msg']}; change it".lstrip(": ")
        ) from error


def _labels(options: argparse.Namespace) -> dict[str, Any]:
    """Title, tags and metadata, checked before a model is loaded."""
    from ibllm_tools.library.entry import checked_metadata, checked_tags

    metadata: dict[str, Any] = {}
    for argument in options.meta:
        key, sign, value = argument.partition("=")
        if not sign or key in metadata:
            problem = "given twice" if sign else "no KEY=VALUE"
            raise InvalidRequestError(f'--meta {one_line(argument)}: {problem}; a list is KEY=\'["a", "b"]\'')
        metadata[key] = _value(value)
    return {
        "title": options.title,
        "tags": None if options.tags is None else checked_tags(options.tags),
        "metadata": checked_metadata(metadata) or None,
    }


def _value(text: str) -> Any:
    """``2024``, ``0.5``, ``true`` and ``["a", "b"]`` as what they are, everything else as the text that it is."""
    try:
        value = json.loads(text, parse_constant=lambda constant: constant)
    except (ValueError, RecursionError):
        return text
    return text if value is None else value


def _sources(options: argparse.Namespace) -> "tuple[list[Any], list[IndexFailure]]":
    """What is to be indexed; what is no path is opened."""
    from ibllm_tools.attachments import SCHEME
    from ibllm_tools.library import IndexFailure

    named = [path for path in options.paths if path == shared.STDIN or SCHEME.match(path)]
    opened = dict(shared.open_files(named, shared.access(options)))
    sources: list[Any] = []
    unusable = []
    for path in options.paths:
        item = opened.get(path, path)
        if not isinstance(item, IbllmError):
            sources.append(item)
        elif options.strict:
            raise item
        else:
            unusable.append(IndexFailure(source=path, reason=str(item)))
    return sources, unusable


def _summary(result: "IndexReport", pruned: list[str] | None) -> str:
    counts = ("added", "changed", "unchanged", "moved", "ignored")
    parts = [f"{getattr(result, name):,} {name}" for name in counts]
    parts.append(f"{len(result.failures):,} failed")
    if pruned is not None:
        parts.append(f"{len(pruned):,} pruned")
    return f"{', '.join(parts)}; {result.entries:,} entries in {result.seconds:.1f} s"
