"""``ibllm cache``."""

import argparse
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.terminal import interrupted_at_once, report
from ibllm_tools.errors import AttachmentError, EncoderMismatchError, IbllmError, InvalidRequestError, StoreError

if TYPE_CHECKING:
    from ibllm_tools.assistant.access import Access
    from ibllm_tools.attachments import Attachment
    from ibllm_tools.checkpoints.visual_cache import Encoder
    from ibllm_tools.store.cache_info import CacheInfo, IndexInfo
    from ibllm_tools.store.feature_files import FeatureFile
    from ibllm_tools.store.visual_cache import VisualCache

DESCRIPTION = """\
The visual cache draws embeddings of sounds, videos and shapes towards the images that the language model learned from.
Build one from images or their features, or look at one."""
EXAMPLES = """\
examples:
  ibllm cache build photos -o caches/photos
  ibllm cache build features.npy -o caches/small --prototypes 30000 --model models/imagebind-llm
  ibllm cache info caches/photos
  ibllm ask "What is making this sound?" bell.wav --cache caches/photos
"""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_BUILD = """\
Add images, features and the images of a library to a visual cache, which is made where there is none. What is in it
already is passed over, so a build that was stopped goes on when the same command is given again. A file that cannot be
used is reported on stderr and left out; the exit code is then 2. Beyond 200,000 features an index is built last, for a
cache on a server where --cache-index says so."""
_BUILD_EXAMPLES = """\
examples:
  ibllm cache build photos more/cat.jpg -o caches/photos
  ibllm cache build features.npy more.parquet -o caches/coco --model models/imagebind-llm
  ibllm cache build --library media-library -o caches/mine
"""
_INFO = """\
Show what a visual cache holds: how many features, of which encoder, and whether the index of a large one is fresh. The
exit code is 2 where the index is damaged."""
_INFO_EXAMPLES = """\
examples:
  ibllm cache info caches/photos
  ibllm cache info caches/coco --verify --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, each with arguments of its own."""
    actions = parser.add_subparsers(title="what to do", dest="action", metavar="WHAT", required=True)
    formatter = argparse.RawDescriptionHelpFormatter
    build = actions.add_parser(
        "build",
        help="add images or features to a cache",
        description=_BUILD,
        epilog=_BUILD_EXAMPLES,
        formatter_class=formatter,
    )
    build.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a folder of images, an image, or a file of features (N, E): .npy, .safetensors, .parquet",
    )
    build.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="the cache: a folder, or a Chroma server (http://host:port)",
    )
    build.add_argument(
        "--prototypes", type=int, metavar="N", help="condense everything to N features, by k-means; DIR must be new"
    )
    shared.add_cache_index(build)
    library = build.add_argument_group("library")
    library.add_argument(
        "--library", metavar="LIBRARY", help="add the images of this media library, a folder or http://host:port"
    )
    shared.add_library_name(library)
    shared.add_model_arguments(build)
    info = actions.add_parser(
        "info", help="show what a cache holds", description=_INFO, epilog=_INFO_EXAMPLES, formatter_class=formatter
    )
    info.add_argument("cache", metavar="DIR", help="the cache: a folder, or a Chroma server (http://host:port)")
    shared.add_cache_index(info)
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.add_argument("--verify", action="store_true", help="read the whole index and compare it with its checksum")


def run(options: argparse.Namespace) -> int:
    """Build a cache, or show one."""
    return _build(options) if options.action == "build" else _show(options)


def _build(options: argparse.Namespace) -> int:
    if not options.sources and options.library is None:
        raise InvalidRequestError("nothing to build from; name images, files of features, or a library (--library)")
    _require_there(options.sources)
    target = None if options.prototypes is None else _prototypes_target(options)
    encoder = _encoder(options.model)
    problems: list[str] = []
    features = _features(options, encoder, problems)
    images = _Images(options.sources, shared.access(options), problems)
    try:
        if features or len(images) or options.library is not None:
            _build_from(features, images, options, encoder, target)
    finally:
        for problem in problems:
            report(problem)
    return 2 if problems else 0


def _require_there(sources: list[str]) -> None:
    from ibllm_tools.attachments import SCHEME

    for source in sources:
        if not SCHEME.match(source) and not shared.exists(str(Path(source).expanduser())):
            raise InvalidRequestError(f"{source}: no such file or folder; check the path")


def _prototypes_target(options: argparse.Namespace) -> Path:
    """The folder that is to hold the prototypes."""
    from ibllm_tools.assistant.model_folder import CHROMA_FILE
    from ibllm_tools.store.chroma_engine import is_server

    if options.prototypes < 1:
        raise InvalidRequestError(f"--prototypes {options.prototypes}: at least 1")
    if is_server(options.output):
        raise InvalidRequestError(f"{options.output}: prototypes are made in a folder; name one")
    target = Path(options.output).expanduser().resolve()
    if (target / CHROMA_FILE).exists():
        raise InvalidRequestError(f"{target}: there is a cache already; prototypes need a new folder")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InvalidRequestError(f"{target}: there is something already; prototypes need a new or an empty folder")
    return target


def _encoder(model: str) -> "Encoder":
    from ibllm_tools.assistant.model_folder import find_model

    folder = find_model(model)  # a wrong name is refused before torch is imported, which takes seconds
    with interrupted_at_once():
        from ibllm_tools.checkpoints.visual_cache import encoder_in

    encoder = encoder_in(folder)
    if encoder is None:
        raise InvalidRequestError(f"{folder}: expected the folder of an ImageBind or ImageBind-LLM model")
    return encoder


def _features(options: argparse.Namespace, encoder: "Encoder", problems: list[str]) -> "list[FeatureFile]":
    """The files of features among the sources; what cannot be opened becomes a problem."""
    with interrupted_at_once():
        from ibllm_tools.store.feature_files import is_feature_file, open_features

    found = []
    for source in filter(is_feature_file, options.sources):
        try:
            file = open_features(source)
        except AttachmentError as error:
            problems.append(str(error))
            continue
        if file.dimension != encoder.dimension:
            raise InvalidRequestError(
                f"{file.path}: features of width {file.dimension}, and those of {options.model} have width "
                f"{encoder.dimension}; name the model that they come from (--model)"
            )
        found.append(file)
    return found


def _build_from(
    features: "list[FeatureFile]",
    images: "_Images",
    options: argparse.Namespace,
    encoder: "Encoder",
    target: Path | None,
) -> None:
    """Fill the cache, and say what is in it; with a target, in a folder beside it, which a stopped build keeps."""
    with interrupted_at_once():
        from ibllm_tools.store.chroma_engine import is_server
        from ibllm_tools.store.visual_cache import VisualCache

    full = None if target is None else target.with_name(f".{target.name}.full")
    place, index = (options.output, options.cache_index) if full is None else (full, None)
    with VisualCache.open(
        place, fingerprint=encoder.fingerprint(), dimension=encoder.dimension, index_folder=index
    ) as cache:
        before = len(cache)
        _fill(cache, options, features, images)
        held = len(cache)
        added, is_large = held - before, cache.info().index.needed
        if target is not None:
            held = _condense(cache, options.prototypes, target)
        elif is_large and (index or not is_server(place)):
            cache.build_index()
    if full is not None:
        shutil.rmtree(full)
    print(f"{options.output}: {held:,} image features of width {encoder.dimension:,}, {added:,} new")
    if held:
        index = index or ("DIR" if is_large and is_server(place) else None)
        model = None if options.model == "mini" else options.model
        named = {"--cache": options.output, "--cache-index": index, "--model": model}
        said = [f" {name} {shlex.quote(value)}" for name, value in named.items() if value]
        print(f'next: ibllm ask "What is this?" FILE{"".join(said)}')


def _fill(cache: "VisualCache", options: argparse.Namespace, features: "list[FeatureFile]", images: "_Images") -> None:
    for file in features:
        try:
            cache.add_batches(((None, rows) for rows in file.batches()), total=file.count)
        except AttachmentError as error:
            images.problems.append(str(error))
    if options.library is not None:
        _add_library(cache, options.library, options.name)
    if len(images):
        failures = cache.add_images(images, shared.load_embedder(options)).failures
        images.problems += [failure.reason for failure in failures]


def _condense(cache: "VisualCache", count: int, target: Path) -> int:
    """Beside its place, so that a cache that lies there is whole; how many prototypes there are."""
    part = target.with_name(f".{target.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    with cache.condensed(count, part) as small:
        held = len(small)
    try:
        if target.exists():
            target.rmdir()  # empty; not everywhere can it be replaced
        part.replace(target)
    except OSError as error:
        raise StoreError(f"{part}: cannot be moved to {target} ({error.strerror}); move it there") from error
    return held


def _add_library(cache: "VisualCache", place: str, name: str) -> None:
    from ibllm_tools.library import MediaLibrary

    with MediaLibrary.open(place, name=name, create=False) as library:
        if library.embedder.fingerprint != cache.fingerprint:
            raise EncoderMismatchError(
                f"{place}: a library of encoder {library.embedder.fingerprint!r}, and the cache is of "
                f"{cache.fingerprint!r}; name the library's model (--model)"
            )
        cache.add_batches(library.vectors("image"))


class _Images:
    """The images among the sources, opened one after the other; what cannot be opened becomes a problem.

    Raises:
        InvalidRequestError: a folder without images.
    """

    def __init__(self, sources: list[str], allowed: "Access", problems: list[str]) -> None:
        from ibllm_tools.store.feature_files import is_feature_file

        self.problems = problems
        self._allowed = allowed
        self._places = [place for source in sources if not is_feature_file(source) for place in _images_in(source)]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> "Iterator[Attachment]":
        for place in self._places:
            try:
                yield self._allowed.open(place)
            except IbllmError as error:
                self.problems.append(str(error))


def _images_in(source: str) -> list[str | Path]:
    place = Path(source).expanduser()
    if not place.is_dir():
        return [source]
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(place)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise InvalidRequestError(
            f"{source}: no images in it; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [*sorted(found)]


def _show(options: argparse.Namespace) -> int:
    from ibllm_tools.assistant.model_folder import find_cache

    place = find_cache(options.cache, Path())
    with interrupted_at_once():
        from ibllm_tools.store.chroma_engine import is_server
        from ibllm_tools.store.visual_cache import VisualCache

    with VisualCache.open(place, index_folder=options.cache_index, create=False) as cache:
        info = cache.info(verify=options.verify)
    has_place = options.cache_index is not None or not is_server(place)
    print(info.model_dump_json() if options.json else _described(info, has_place))
    if info.index.state != "damaged":
        return 0
    report(f"{info.index.path}: the index is damaged; delete it, and it is built again when it is used")
    return 2


def _described(info: "CacheInfo", has_index_place: bool) -> str:
    lines = {
        "location": info.location,
        "features": f"{info.features:,} of width {info.dimension:,}",
        "encoder": info.fingerprint,
        "collections": f"{len(info.collections)}, the largest of {max(info.collections.values()):,} features",
        "index": _described_index(info.index, has_index_place),
    }
    if info.bytes is not None:
        lines["on disk"] = _size(info.bytes)
    return "\n".join(f"{name + ':':13} {value}" for name, value in lines.items())


def _described_index(index: "IndexInfo", has_place: bool) -> str:
    if index.path is not None:
        held = f"{index.features:,} features in {index.lists:,} lists, " if index.lists else ""
        return f"{index.state}, {held}{_size(index.bytes)}"
    if not index.needed:
        return "none, and none is needed"
    return "none; it is built when used" if has_place else "with whoever asks; name its folder (--cache-index DIR)"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
