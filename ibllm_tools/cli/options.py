"""Arguments that several commands share, and what they mean."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibllm_tools.assistant.model_folder import QUANTIZATIONS
from ibllm_tools.cli.terminal import interrupted_at_once
from ibllm_tools.errors import IbllmError, InvalidRequestError, one_line

if TYPE_CHECKING:
    from ibllm_tools.assistant.access import Access
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.assistant.embedding import JointEmbedder
    from ibllm_tools.attachments import Attachment
    from ibllm_tools.library import MediaLibrary

DTYPES = ("float32", "float16", "bfloat16")
MODALITIES = ("image", "video", "audio", "text", "depth", "thermal", "imu", "point")
STDIN = "-"
FILES_HELP = "path, URL (with --allow-fetch) or data URI; - reads a file from stdin"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, where it runs, and what it may open."""
    group = parser.add_argument_group("model and access")
    group.add_argument(
        "--model",
        default="mini",
        metavar="MODEL",
        help="'mini', the model in this package (default), a converted model's folder, or a hub id (downloads)",
    )
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; CUDA where there is one by default")
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the weights; as they are stored by default, but never float16 on a CPU (float32, or bfloat16 for more "
        "than 2 GiB)",
    )
    group.add_argument(
        "--root",
        action="append",
        metavar="DIR",
        dest="roots",
        help="open no files but those below DIR; can be given several times",
    )
    group.add_argument("--allow-fetch", action="store_true", help="fetch http and https URLs from public addresses")


def add_answer_arguments(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """How the answer is made and printed; returns their group."""
    group = parser.add_argument_group("answer")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object per answer, with evidence, instead of text"
    )
    cache = group.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache",
        metavar="LOCATION",
        help="the visual cache in this folder or on this Chroma server (http://host:port), not the model's own",
    )
    cache.add_argument(
        "--no-cache", action="store_true", help="do not draw the embedding towards images of the visual cache"
    )
    add_cache_index(group)
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="length of an answer at most, in tokens")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="0 for no randomness, more for more; the model's own by default"
    )
    group.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        help="hold the language model's layers in 8 or 4 bits (needs the extra 'quantize')",
    )
    return group


def add_cache_index(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Where the index of a cache lies that has no folder of its own."""
    parser.add_argument(
        "--cache-index",
        metavar="DIR",
        help="where the index of a cache of more than 200,000 features lies; by default in its folder, on a server "
        "nowhere",
    )


def add_library_name(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Which of the libraries in a place."""
    parser.add_argument("--name", default="library", metavar="NAME", help="of the library in its database; 'library'")


def add_library_arguments(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Which library, where it is not a whole folder of its own."""
    add_library_name(parser)
    parser.add_argument(
        "--attachments",
        metavar="DIR",
        help="where thumbnails and what is no file are kept; by default in the library's folder, on a server nowhere",
    )


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_answer_arguments` says about writing an answer, as arguments of `Assistant.ask`."""
    return {
        "use_cache": False if options.no_cache else None,
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
    }


def access(options: argparse.Namespace) -> "Access":
    """What may be opened."""
    from ibllm_tools.assistant.access import Access

    return Access(roots=options.roots, allow_fetch=options.allow_fetch)


def load_assistant(options: argparse.Namespace) -> "Assistant":
    """The assistant that the options name; no progress bars, no log below errors."""
    from ibllm_tools.store.chroma_engine import is_server

    cache = True if options.cache is None else options.cache
    _prepare_loading(options.model, cache)
    if is_server(options.cache):
        _ask_server_for_cache(options.cache, options.cache_index)
    with interrupted_at_once():
        from ibllm_tools.assistant.assistant import Assistant

    return Assistant.load(
        options.model,
        device=options.device,
        dtype=options.dtype,
        quantization=options.quantize,
        cache=cache,
        cache_index=options.cache_index,
        access=access(options),
    )


def load_embedder(options: argparse.Namespace) -> "JointEmbedder":
    """The encoder that the options name, without its language model; as quiet as `load_assistant`."""
    _prepare_loading(options.model)
    with interrupted_at_once():
        from ibllm_tools.assistant.embedding import JointEmbedder

    return JointEmbedder.load(options.model, device=options.device, dtype=options.dtype, limits=access(options).limits)


def open_library(options: argparse.Namespace, **settings: Any) -> "MediaLibrary":
    """The library that the options name.

    Args:
        options: with ``library``, its folder or server, and what `add_library_arguments` adds.
        settings: of `MediaLibrary.open`: without an embedder, one that is there.
    """
    with interrupted_at_once():
        from ibllm_tools.library import MediaLibrary

    return MediaLibrary.open(options.library, name=options.name, attachments=options.attachments, **settings)


def json_filter(text: str | None) -> Any:
    """``--where`` as what it says; `MediaLibrary` checks that it is a filter.

    Raises:
        InvalidRequestError: not JSON.
    """
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f'--where {one_line(text)}: not JSON ({one_line(error)}), expected e.g. \'{{"year": {{"$gte": 2020}}}}\''
        ) from error


def json_schema(file: str | None) -> Any:
    """``--schema`` as what the file says; the assistant checks that it is a schema.

    Raises:
        InvalidRequestError: it cannot be read, or is not JSON.
    """
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))  # Windows' tools put a mark before it
    except OSError as error:
        raise InvalidRequestError(
            f"--schema {one_line(file)}: {error.strerror or error}, expected a file with a JSON schema"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"--schema {one_line(file)}: not JSON ({one_line(error)}), expected a file with a JSON schema"
        ) from error


def _prepare_loading(model: str, cache: bool | str = False) -> None:
    from ibllm_tools.assistant.model_folder import find_cache, find_model

    find_cache(cache, find_model(model))  # a wrong name is refused before torch is imported, which takes seconds

    with interrupted_at_once():
        from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the same


def _ask_server_for_cache(url: str, index: str | None) -> None:
    """Have what is wrong with it said before a model is loaded."""
    with interrupted_at_once():
        from ibllm_tools.store.visual_cache import VisualCache

    with VisualCache.open(url, index_folder=index, create=False) as cache:
        cache.require_usable()


def split_weight(argument: str) -> tuple[str, float | None]:
    """``bell.wav=0.7`` as file and weight. A file of just that name, and the query of a URL, stay whole."""
    name, sign, number = argument.rpartition("=")
    is_query = argument.lower().startswith(("http://", "https://")) and "?" in argument
    if not sign or is_query or exists(argument):
        return argument, None
    try:
        return name, float(number)
    except ValueError:
        return argument, None


def open_files(files: Sequence[str], allowed: "Access") -> "list[tuple[str, Attachment | IbllmError]]":
    """Each file as attachment, or the error why it cannot be used; ``-`` is what comes in on stdin.

    This happens before a model is loaded, so that a wrong name is refused at once.

    Raises:
        InvalidRequestError: ``-`` is there several times.
    """
    if list(files).count(STDIN) > 1:
        raise InvalidRequestError("- is given several times, but stdin can be read once; pass the file by its path")
    found: list[tuple[str, Attachment | IbllmError]] = []
    for file in files:
        try:
            found.append((file, _from_stdin(allowed) if file == STDIN else allowed.open(file)))
        except IbllmError as error:
            found.append((file, error))
    return found


def _from_stdin(allowed: "Access") -> "Attachment":
    from ibllm_tools.attachments import Attachment

    # one byte more than allowed shows that there is too much
    return Attachment(sys.stdin.buffer.read(allowed.limits.max_bytes + 1), name="stdin", limits=allowed.limits)


def exists(argument: str) -> bool:
    """Whether there is a file or folder of that name, whatever is in it."""
    try:
        return Path(argument).exists()
    except (OSError, ValueError):
        return False
