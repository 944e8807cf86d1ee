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
from ibllm_tools.errors import EncoderMismatchError, IbllmError, InvalidRequestError, StoreError

if TYPE_CHECKING:
    from ibllm_tools.assistant.access import Access
    from ibllm_tools.attachments import Attachment
    from ibllm_tools.checkpoints.visual_cache import Encoder
    from ibllm_tools.store.cache_info import CacheInfo
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
used is reported on stderr and left out; the exit code is then 2. Beyond 200,000 features an index is built last."""
_BUILD_EXAMPLES = """\
examples:
  ibllm cache build photos more/cat.jpg -o caches/photos
  ibllm cache build features.npy more.parquet -o caches/coco --model models/imagebind-llm
  ibllm cache build --library media-library -o caches/mine
"""
_INFO = """\
Show what a visual cache holds: how many features, of which encoder, and whether the index of a large one is fresh."""
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
    build.add_argument("--library", metavar="DIR", help="add the images of this media library")
    build.add_argument(
        "--prototypes", type=int, metavar="N", help="condense everything to N features, by k-means; DIR must be new"
    )
    shared.add_model_arguments(build)
    info = actions.add_parser(
        "info", help="show what a cache holds", description=_INFO, epilog=_INFO_EXAMPLES, formatter_class=formatter
    )
    info.add_argument("cache", metavar="DIR", help="the cache: a folder, or a Chroma server (http://host:port)")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.add_argument("--verify", action="store_true", help="read the whole index and compare it with its checksum")


def run(options: argparse.Namespace) -> int:
    """Build a cache, or show one."""
    return _build(options) if options.action == "build" else _show(options)


def _build(options: argparse.Namespace) -> int:
    if not options.sources and options.library is None:
        raise InvalidRequestError("nothing to build from; name images, files of features, or a library (--library)")
    encoder = _encoder(options.model)
    with interrupted_at_once():
        from ibllm_tools.store.feature_files import is_feature_file, open_features

    features = [open_features(source) for source in options.sources if is_feature_file(source)]
    for file in features:
        if file.dimension != encoder.dimension:
            raise InvalidRequestError(
                f"{file.path}: features of width {file.dimension}, and those of {options.model} have width "
                f"{encoder.dimension}; name the model that they come from (--model)"
            )
    images = _Images([source for source in options.sources if not is_feature_file(source)], shared.access(options))
    target = options.output if options.prototypes is None else _staging(options)
    with _opened(target, encoder.fingerprint(), encoder.dimension) as cache:
        held = len(cache)
        _fill(cache, options, features, images)
        added = len(cache) - held
        if options.prototypes is not None:
            _condense(cache, options.prototypes, Path(options.output))
        elif cache.info().index.needed:
            cache.build_index()
        features_held = options.prototypes or held + added
    if options.prototypes is not None:
        shutil.rmtree(target)
    for problem in images.problems:
        report(problem)
    print(f"{options.output}: {features_held:,} image features of width {encoder.dimension:,}, {added:,} new")
    model = "" if options.model == "mini" else f" --model {shlex.quote(options.model)}"
    print(f'next: ibllm ask "What is this?" FILE --cache {shlex.quote(options.output)}{model}')
    return 2 if images.problems else 0


def _encoder(model: str) -> "Encoder":
    from ibllm_tools.assistant.model_folder import find_model

    folder = find_model(model)  # a wrong name is refused before torch is imported, which takes seconds
    with interrupted_at_once():
        from ibllm_tools.checkpoints.visual_cache import encoder_in

    encoder = encoder_in(folder)
    if encoder is None:
        raise InvalidRequestError(f"{folder}: expected the folder of an ImageBind or ImageBind-LLM model")
    return encoder


def _staging(options: argparse.Namespace) -> str:
    """Where everything goes that is then condensed; kept by a build that is stopped."""
    from ibllm_tools.assistant.model_folder import CHROMA_FILE
    from ibllm_tools.store.chroma_engine import is_server

    target = Path(options.output)
    if is_server(options.output):
        raise InvalidRequestError(f"{options.output}: prototypes are made in a folder; name one")
    if (target / CHROMA_FILE).exists():
        raise InvalidRequestError(f"{target}: there is a cache already; prototypes need a new folder")
    return str(target.with_name(f".{target.name}.full"))


def _opened(location: str, fingerprint: str, dimension: int) -> "VisualCache":
    with interrupted_at_once():
        from ibllm_tools.store.visual_cache import VisualCache

    return VisualCache.open(location, fingerprint=fingerprint, dimension=dimension)


def _fill(cache: "VisualCache", options: argparse.Namespace, features: "list[FeatureFile]", images: "_Images") -> None:
    for file in features:
        cache.add_batches(((None, rows) for rows in file.batches()), total=file.count)
    if options.library is not None:
        _add_library(cache, options.library)
    if len(images):
        failures = cache.add_images(images, shared.load_embedder(options)).failures
        images.problems += [failure.reason for failure in failures]


def _condense(cache: "VisualCache", count: int, target: Path) -> None:
    """Beside its place, so that a cache that lies there is whole."""
    part = target.with_name(f".{target.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    cache.condensed(count, part).close()
    part.replace(target)


def _add_library(cache: "VisualCache", place: str) -> None:
    from ibllm_tools.library import MediaLibrary

    with MediaLibrary.open(place, create=False) as library:
        if library.embedder.fingerprint != cache.fingerprint:
            raise EncoderMismatchError(
                f"{place}: a library of encoder {library.embedder.fingerprint!r}, and the cache is of "
                f"{cache.fingerprint!r}; name the library's model (--model)"
            )
        cache.add_batches(library.vectors("image"))


class _Images:
    """The images in folders and files, opened one after the other; what cannot be opened becomes a problem.

    Raises:
        InvalidRequestError: a source that is not there, or a folder without images.
    """

    def __init__(self, sources: list[str], allowed: "Access") -> None:
        self.problems: list[str] = []
        self._allowed = allowed
        self._places = [place for source in sources for place in _images_in(source)]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> "Iterator[Attachment]":
        for place in self._places:
            try:
                yield self._allowed.open(place)
            except IbllmError as error:
                self.problems.append(str(error))


def _images_in(source: str) -> list[str | Path]:
    if not Path(source).is_dir():
        return [source]
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(source)
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

    place = str(find_cache(options.cache, Path()))
    with interrupted_at_once():
        from ibllm_tools.store.chroma import VectorDatabase
        from ibllm_tools.store.visual_cache import NAME

    with VectorDatabase.open(place) as database:
        said = database.metadata(NAME)
        if said is None or "fingerprint" not in said or "dimension" not in said:
            raise StoreError(f"{place}: no visual cache in it; expected one that 'ibllm cache build' made")
        with _opened(place, str(said["fingerprint"]), int(said["dimension"])) as cache:
            info = cache.info(verify=options.verify)
    print(info.model_dump_json() if options.json else _described(info))
    return 0


def _described(info: "CacheInfo") -> str:
    index = info.index
    state = f"{index.state}, {index.features:,} features in {index.lists:,} lists, {_size(index.bytes)}"
    lines = {
        "location": info.location,
        "features": f"{info.features:,} of width {info.dimension:,}",
        "encoder": info.fingerprint,
        "collections": f"{len(info.collections)}, the largest of {max(info.collections.values()):,} features",
        "index": state
        if index.path
        else "none, and none is needed"
        if not index.needed
        else "none; it is built when used",
    }
    if info.bytes is not None:
        lines["on disk"] = _size(info.bytes)
    return "\n".join(f"{name + ':':13} {value}" for name, value in lines.items())


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
