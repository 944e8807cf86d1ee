"""``ibllm library``."""

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.search import WHERE_WIDTH, described
from ibllm_tools.cli.terminal import report, shown

if TYPE_CHECKING:
    from ibllm_tools.library import IndexFailure

DESCRIPTION = """\
Look into a media library, check and mend it, move it to another place or machine, and tidy it up. No model is loaded.
LIBRARY is its folder, or a Chroma server (http://host:port)."""
EXAMPLES = """\
examples:
  ibllm library stats library
  ibllm library list library --modality audio --limit 20
  ibllm library verify library --repair
  ibllm library export library backup --files
  ibllm library import http://localhost:8000 backup --attachments thumbnails --media media
"""


@dataclass(frozen=True)
class _Task:
    """Something that can be done with a library."""

    summary: str
    description: str
    example: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, each with arguments of its own."""
    tasks = parser.add_subparsers(title="what to do", dest="task", metavar="WHAT", required=True)
    for name, task in _TASKS.items():
        below = tasks.add_parser(
            name,
            help=task.summary,
            description=task.description,
            epilog=f"examples:\n{task.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        below.add_argument("library", metavar="LIBRARY", help="its folder, or a Chroma server (http://host:port)")
        task.add_arguments(below)
        shared.add_library_arguments(below)
        below.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(options: argparse.Namespace) -> int:
    """Do it."""
    return _TASKS[options.task].run(options)


def _stats(options: argparse.Namespace) -> int:
    with shared.open_library(options, create=False) as library:
        stats = library.stats()
    if options.json:
        print(stats.model_dump_json())
        return 0
    lines = [
        ("location", stats.location),
        ("encoder", f"{stats.encoder}, width {stats.dimension:,}"),
        ("sources", f"{stats.sources:,}, {_size(stats.source_bytes)}"),
        ("entries", f"{sum(stats.entries.values()):,}"),
        *((f"  {modality}", _entries(count, stats.seconds.get(modality))) for modality, count in stats.entries.items()),
        ("database", "on a server" if stats.database_bytes is None else _size(stats.database_bytes)),
        ("attachments", f"{stats.attachments:,}, {_size(stats.attachment_bytes)}"),
    ]
    for name, value in lines:
        print(f"{name:<13}{shown(value)}")
    return 0


def _add_list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modality", action="append", choices=shared.MODALITIES, help="only these")
    parser.add_argument("--where", metavar="JSON", help="filter of tags and metadata, in Chroma's language")
    parser.add_argument("--limit", type=int, metavar="N", help="entries at most")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="entries to pass over")


def _list(options: argparse.Namespace) -> int:
    where = shared.json_filter(options.where)
    with shared.open_library(options, create=False) as library:
        entries = library.list(modality=options.modality, where=where, limit=options.limit, offset=options.offset)
        for entry in entries:
            if options.json:
                print(entry.model_dump_json())
            else:
                place = shown(entry.citation, WHERE_WIDTH)
                print(f"{entry.modality:<7}  {place:<{WHERE_WIDTH}}  {described(entry)}".rstrip())
    return 0


def _add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")


def _verify(options: argparse.Namespace) -> int:
    with shared.open_library(options, create=False) as library:
        check = library.verify(repair=options.repair)
    print(check.model_dump_json() if options.json else check)
    return 0 if check.ok else 2


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="new or empty")
    parser.add_argument("--files", action="store_true", help="also the files of the sources, for another machine")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there, once it is complete")


def _export(options: argparse.Namespace) -> int:
    with shared.open_library(options, create=False) as library:
        result = library.export(options.folder, files=options.files, overwrite=options.overwrite)
    _report(result.failures)
    if options.json:
        print(result.model_dump_json())
    else:
        print(
            f"{shown(result.folder)}: {result.sources:,} sources, {result.entries:,} entries, "
            f"{result.copied:,} files copied in {result.seconds:.1f} s"
        )
        print(f"next: ibllm library import LIBRARY {shlex.quote(options.folder)}")
    return 2 if result.failures else 0


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="what ibllm library export has written")
    parser.add_argument(
        "--media", metavar="DIR", help="write the files of the export below DIR, where the sources are from then on"
    )
    parser.add_argument(
        "--rebase",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="the sources that lay below the folder OLD lie below NEW here; can be given several times",
    )


def _import(options: argparse.Namespace) -> int:
    from ibllm_tools.library.importing import exported_encoder

    encoder = exported_encoder(options.folder)
    with shared.open_library(options, embedder=encoder) as library:
        result = library.import_(options.folder, media=options.media, rebase=dict(options.rebase))
    _report(result.failures)
    if options.json:
        print(result.model_dump_json())
    else:
        print(
            f"{result.sources:,} sources, {result.entries:,} entries, {result.written:,} of them written, "
            f"{result.copied:,} files copied in {result.seconds:.1f} s"
        )
    return 2 if result.failures else 0


def _prune(options: argparse.Namespace) -> int:
    with shared.open_library(options, create=False) as library:
        removed = library.prune()
    if options.json:
        print(json.dumps({"removed": removed}))
    else:
        for source in removed:
            print(shown(source, 1000))
        print(f"{len(removed):,} sources removed")
    return 0


def _compact(options: argparse.Namespace) -> int:
    with shared.open_library(options, create=False) as library:
        result = library.compact()
    if options.json:
        print(result.model_dump_json())
    else:
        print(f"database: {_size(result.bytes_before)} before, {_size(result.bytes_after)} now")
    return 0


def _report(failures: "Sequence[IndexFailure]") -> None:
    for failure in failures:
        report(failure.line)


def _entries(count: int, seconds: float | None) -> str:
    return f"{count:,}" if seconds is None else f"{count:,}, {timedelta(seconds=round(seconds))}"


def _size(count: int) -> str:
    """``1.5 MB``."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


_TASKS = {
    "stats": _Task(
        "how much there is", "Say how much a library holds.", "  ibllm library stats library --json\n", _stats
    ),
    "list": _Task(
        "the entries, one per line",
        "Print the entries, modality by modality, in the order in which they came.",
        '  ibllm library list library --modality image --where \'{"tags": {"$contains": "holiday"}}\'\n',
        _list,
        _add_list_arguments,
    ),
    "verify": _Task(
        "check that everything is there, and mend what is not",
        "Compare what a library should hold with what it holds. The exit code is 2 where something is wrong.",
        "  ibllm library verify library --repair\n",
        _verify,
        _add_verify_arguments,
    ),
    "export": _Task(
        "write it into a folder: Parquet and files",
        """\
Write everything into a folder: Parquet for entries and vectors, files for thumbnails and attachments. The folder is
there when it is complete, or not at all. Needs the extra 'parquet'.""",
        "  ibllm library export library backup --files\n",
        _export,
        _add_export_arguments,
    ),
    "import": _Task(
        "take over what was exported",
        """\
Take over an exported library; into a new one, or beside what is there. Nothing is encoded again. The folder is
checked before anything is written; after Ctrl-C or a kill, the same command goes on where it was. Needs the extra
'parquet'.""",
        "  ibllm library import library backup --media media\n"
        "  ibllm library import library backup --rebase /home/ann/photos /srv/photos\n",
        _import,
        _add_import_arguments,
    ),
    "prune": _Task(
        "remove the sources whose files have gone",
        """\
Remove the sources whose files have gone, and thumbnails in the library's own folder that nothing has referred to for a
day.""",
        "  ibllm library prune library\n",
        _prune,
    ),
    "compact": _Task(
        "make the database as small as what it holds",
        "Build the database anew: what was deleted takes room until then.",
        "  ibllm library compact library\n",
        _compact,
    ),
}
