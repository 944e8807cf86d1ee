"""``ibllm search``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.terminal import shown
from ibllm_tools.errors import AttachmentNotFoundError, IbllmError

if TYPE_CHECKING:
    from ibllm_tools.library import Entry, Hit

DESCRIPTION = """\
Find files in a media library: by a text, by files of any kind, or by a mix of them. Per source there is one line, the
best first: score, modality, where it is, and what is known of it."""
EXAMPLES = """\
examples:
  ibllm search "a ringing bell" --library library
  ibllm search bell.wav --library library --modality image -k 3
  ibllm search "a red car" "a truck=-0.5" sunset.jpg=0.3 --library library --json
  ibllm search bell --library library --ranking words --where '{"year": {"$gte": 2020}}'
"""
RANKINGS = ("similarity", "words", "hybrid")
WHERE_WIDTH, WHAT_WIDTH = 44, 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Queries, the library, filters, ranking."""
    parser.add_argument(
        "queries",
        nargs="+",
        metavar="QUERY|FILE[=WEIGHT]",
        help="a text; a file, where there is one of that name; an att:// handle, URL (with --allow-fetch) or data URI; "
        "- reads a file from stdin. bell.wav=0.7 gives a weight (1 where others have one); a negative one says what it "
        "is not to be like",
    )
    parser.add_argument(
        "--library", required=True, metavar="LIBRARY", help="its folder, or a Chroma server (http://host:port)"
    )
    shared.add_library_arguments(parser)
    parser.add_argument("--text", action="store_true", help="take every query as text, to the letter")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="sources at most; 10 by default")
    parser.add_argument(
        "--modality",
        action="append",
        choices=shared.MODALITIES,
        help="of what is to be found; everything by default, can be given several times",
    )
    parser.add_argument("--where", metavar="JSON", help="filter of tags and metadata, in Chroma's language")
    parser.add_argument("--min-score", type=float, metavar="X", help="leave out what scores less")
    parser.add_argument(
        "--ranking",
        choices=RANKINGS,
        default="similarity",
        help="by the embeddings (default), by the words of captions, texts and titles (needs no model), or by both",
    )
    parser.add_argument(
        "--diversity", type=float, default=0.0, metavar="X", help="0 to 1; above 0, what resembles comes later"
    )
    parser.add_argument(
        "--segments", type=int, default=3, metavar="N", help="of each source in the JSON, at most; 3 by default"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per source")
    shared.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Search, and print what was found."""
    from ibllm_tools.library.querying import share, whole

    pairs = [(word, None) if options.text else shared.split_weight(word) for word in options.queries]
    weights = [1.0 if weight is None else weight for _, weight in pairs]
    wanted = {
        "modality": options.modality,
        "where": shared.json_filter(options.where),
        "min_score": options.min_score,
        "query_weights": weights if any(weight is not None for _, weight in pairs) else None,
        "ranking": options.ranking,
        "diversity": share("diversity", options.diversity),
        "segments": whole("segments", options.segments, least=1),
    }
    k = whole("k", options.k, least=1)
    queries = _queries([word for word, _ in pairs], options)
    access = {"roots": options.roots, "limits": shared.access(options).limits, "create": False}
    with shared.open_library(options, **access) as library:  # what is wrong with it is said before a model is loaded
        hits = library.search(queries, k, **wanted) if options.ranking == "words" else None
    if hits is None:
        embedder = shared.load_embedder(options)
        with shared.open_library(options, embedder=embedder, **access) as library:
            hits = library.search(queries, k, **wanted)
    if options.json:
        for hit in hits:
            print(hit.model_dump_json())
    else:
        print("\n".join(as_table(hits)) if hits else "nothing found")
    return 0


def as_table(hits: "Sequence[Hit]") -> list[str]:
    """Rank, score, modality, place and description, in columns."""
    places = [shown(hit.citation, WHERE_WIDTH) for hit in hits]
    width = max(map(len, places), default=0)
    rank_width = len(str(len(hits)))
    return [
        f"{rank:>{rank_width}}  {hit.score:.3f}  {hit.modality:<7}  {place:<{width}}  {described(hit)}".rstrip()
        for rank, (hit, place) in enumerate(zip(hits, places, strict=True), 1)
    ]


def described(entry: "Entry") -> str:
    """What is known of an entry, in one line: its caption or text, or a title that is not just the file's name."""
    said = entry.caption or entry.text
    if said is None and not entry.citation.startswith(entry.title):
        said = entry.title
    return shown(said or "", WHAT_WIDTH)


def _queries(words: Sequence[str], options: argparse.Namespace) -> list[Any]:
    """Texts and handles as they are, everything else opened; what is not there is refused before a model is loaded."""
    from ibllm_tools.attachments import SCHEME

    queries: list[Any] = list(words)
    if options.text:
        return queries
    files = [
        place
        for place, word in enumerate(words)
        if not word.startswith("att://") and (word == shared.STDIN or SCHEME.match(word) or _is_file(word))
    ]
    opened = shared.open_files([words[place] for place in files], shared.access(options))
    for place, (_, attachment) in zip(files, opened, strict=True):
        if isinstance(attachment, IbllmError):
            raise attachment
        queries[place] = attachment
    for query in queries:
        if isinstance(query, str):
            _require_no_file_name(query)
    return queries


def _require_no_file_name(word: str) -> None:
    """Refuse what is named like a file and is none: hardly anybody looks for ``bell.wav`` as a text."""
    from ibllm_tools.library.scanning import MEDIA_SUFFIXES

    is_named_so = Path(word).suffix.lower() in MEDIA_SUFFIXES and not any(letter.isspace() for letter in word)
    if is_named_so and not word.startswith("att://"):
        raise AttachmentNotFoundError(f"{word}: no such file; check the path, or add --text to search for these words")


def _is_file(word: str) -> bool:
    try:
        return Path(word).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False
