"""The official visual cache, a FAISS index of image features (``knn.index``), as a visual cache in ChromaDB.

The cache is filled in a folder of its own, ``.NAME.partial`` beside the place where it is to be, and renamed once it is
complete: a cache that lies in its place is whole. What a stopped run leaves behind is continued by the next one, with
the batch in which it stopped; ``conversion.json``, written first, tells which index and which encoder it belongs to.

Chroma takes in some hundred vectors of width 1,024 a second where it is to search them, and some thousand beyond; three
million take half an hour or more, and 5.3 kB of disk each. The index of a large one is built last, and takes 2 kB more.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ibllm_tools.checkpoints.faiss_index import INNER_PRODUCT, L2, FaissIndex
from ibllm_tools.errors import (
    CheckpointError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    StoreError,
    one_line,
)
from ibllm_tools.imagebind.fingerprint import ENCODER_PREFIX

CACHE_FOLDER = "visual_cache"
"""Where the folder of a model keeps its cache in ChromaDB."""

_RECORD = "conversion.json"
_BATCH = 4096
_UNIT_TOLERANCE = 1e-3


class CacheConversion(BaseModel):
    """What became of a FAISS index."""

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(description="the cache, a folder of ChromaDB")
    features: int = Field(description="image features in it")
    dimension: int = Field(description="their width E")
    fingerprint: str = Field(description="identifies the encoder that they belong to")
    index_type: str = Field(description="FAISS's classes of the index, from the outside in")
    bytes: int = Field(description="size of the index file")
    sha256: str = Field(description="of the index file, in hexadecimal")
    warnings: tuple[str, ...] = Field(description="where the cache may differ from the index")


def convert_visual_cache(
    index: str | Path, folder: str | Path, *, model: str | Path | None = None, progress: bool = True
) -> CacheConversion:
    """Turn a FAISS index of image features into a :class:`~ibllm_tools.store.visual_cache.VisualCache`.

    Any index will do whose vectors FAISS can reconstruct: flat, inverted lists, HNSW, quantised, and what wraps
    another one. Flat ones and lists are mapped from the file, others are held in memory once. Positions in the index
    become ids (``faiss-00000042``). A run that was stopped is continued; done again, it changes nothing.

    Args:
        index: the file, ``knn.index``.
        folder: where the cache goes. The folder of a converted model gets it in ``visual_cache/``, where
            ``Assistant.load`` finds it, and is the encoder.
        model: for any other ``folder``, that of the ImageBind or ImageBind-LLM model whose features these are.
        progress: draw bars, on terminals only.

    Raises:
        CheckpointError: the index is damaged, empty, of another width or metric, does not give its vectors back, or
            holds one without a direction; or the encoder is damaged.
        InvalidRequestError: no encoder, or something else lies where the cache is to be.
        ModelError: there is no encoder, or its configuration cannot be read.
        MissingExtraError: FAISS is not installed.
        StoreLockedError: another process converts to the same place.
        StoreError: the cache cannot be written.
    """
    from ibllm_tools.checkpoints.reading import source_file  # imports torch

    source = Path(index).expanduser()
    encoder, target = _places(Path(folder).expanduser().resolve(), model)
    vectors = FaissIndex(source)
    if vectors.dimension != encoder.dimension:
        raise CheckpointError(
            f"{source}: features of width {vectors.dimension}, and the encoder in {encoder.folder} has width "
            f"{encoder.dimension}; name the model that the index was made with"
        )
    file, fingerprint = source_file(source, "the visual cache", progress=progress), encoder.fingerprint()
    finished = read_conversion(target)
    if finished is not None and (finished.sha256, finished.fingerprint) == (file.sha256, fingerprint):
        return finished
    _require_free(target)
    conversion = CacheConversion(
        folder=target,
        features=len(vectors),
        dimension=vectors.dimension,
        fingerprint=fingerprint,
        index_type=vectors.kind,
        bytes=file.bytes,
        sha256=file.sha256,
        warnings=_checked(vectors, progress),
    )
    try:
        staging = _staging(conversion)
        _fill(staging, vectors, conversion, progress)
        staging.rename(target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror or error}); choose another folder") from error
    return conversion


def read_conversion(folder: Path) -> CacheConversion | None:
    """What a cache was made from; ``None`` where no conversion made it."""
    try:
        content = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return CacheConversion(**{**content, "folder": folder})
    except (OSError, ValueError, TypeError):  # pydantic's errors are ValueErrors
        return None


class Encoder(NamedTuple):
    """What a cache has to know of the model in a folder, without loading it."""

    folder: Path
    dimension: int
    """Width E of its features."""
    prefix: str
    """Of its weights in the files of the folder."""

    def fingerprint(self) -> str:
        """The encoder's, as a conversion wrote it down, or computed from the files."""
        from ibllm_tools.imagebind.fingerprint import stored_fingerprint

        return stored_fingerprint(self.folder) or _computed_fingerprint(self)


def _places(folder: Path, model: str | Path | None) -> tuple[Encoder, Path]:
    """The encoder, and where the cache goes."""
    own = encoder_in(folder)
    if model is None:
        if own is None:
            raise InvalidRequestError(
                f"{folder}: no model's folder, and a cache must know whose features it holds; name the folder of a "
                "converted model, which the cache is then added to, or pass the folder of its model (--model)"
            )
        return own, folder / CACHE_FOLDER
    if own is not None:
        raise InvalidRequestError(
            f"{folder}: a model's folder, whose cache holds the features of that model; leave out the model {model}, "
            "or choose another folder"
        )
    encoder = encoder_in(Path(model).expanduser())
    if encoder is None:
        raise ModelNotFoundError(f"{model}: expected the folder of a converted ImageBind or ImageBind-LLM model")
    return encoder, folder


def encoder_in(folder: Path) -> Encoder | None:
    """The encoder of a model's folder; ``None`` where it is no folder of a model of ours.

    Raises:
        ModelError: its configuration cannot be read.
    """
    from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
    from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig

    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if model_type == ImageBindConfig.model_type:
            return Encoder(folder, ImageBindConfig.from_pretrained(folder).projection_dim, "")
        if model_type == ImageBindLlmConfig.model_type:
            config = ImageBindLlmConfig.from_pretrained(folder)
            return Encoder(folder, config.imagebind_config.projection_dim, ENCODER_PREFIX)
    except FileNotFoundError:
        return None
    except Exception as error:  # configurations from elsewhere fail in as many ways as there are libraries
        raise ModelError(f"{folder}: its config.json cannot be read ({one_line(error)}); convert it again") from error
    return None


def _computed_fingerprint(encoder: Encoder) -> str:
    """Of a model that no conversion made; from its files, weight by weight."""
    from ibllm_tools.checkpoints.imagebind import read_processor
    from ibllm_tools.checkpoints.model_weights import ModelWeights
    from ibllm_tools.imagebind.fingerprint import EncoderDigest

    digest, weights = EncoderDigest(read_processor(encoder.folder)), ModelWeights(encoder.folder)
    names = sorted(name for name in weights if name.startswith(encoder.prefix))
    if not names:
        raise ModelError(f"{encoder.folder}: no weights of an encoder in it; convert the model again")
    for name in names:
        digest.update(name.removeprefix(encoder.prefix), weights[name])
    return digest.hexdigest()


def _require_free(target: Path) -> None:
    try:
        target.rmdir()  # an empty folder is as good as none
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InvalidRequestError(
            f"{target}: {error.strerror}, and it is no cache of this index and this encoder; choose another folder, or "
            "delete it"
        ) from error


def _checked(vectors: FaissIndex, progress: bool) -> tuple[str, ...]:
    """What to be warned of.

    Raises:
        CheckpointError: there is something that no cache can hold.
    """
    shortest, longest = np.inf, 0.0
    for start, rows in _batches(vectors, 0, "checking", progress):
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(rows, axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        if not usable.all():
            raise CheckpointError(
                f"{vectors.path}: vector {start + int(usable.argmin())} is zero, undefined or infinite, expected a "
                "direction; download or build the index again"
            )
        shortest, longest = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
    span = f"lengths {shortest:.4g} to {longest:.4g}"
    are_units = max(1 - shortest, longest - 1) <= _UNIT_TOLERANCE
    if vectors.metric != INNER_PRODUCT and not (vectors.metric == L2 and are_units):
        metric = "L2 distance" if vectors.metric == L2 else f"FAISS's metric {vectors.metric}"
        raise CheckpointError(
            f"{vectors.path}: it measures {metric} between vectors of {span}; expected the inner product, or unit "
            "vectors, which both order alike"
        )
    warnings = []
    if vectors.metric == L2:
        warnings.append(
            "the index measures L2 distance: the cache finds the same neighbours, for they are unit vectors, but "
            "weighs them by their inner product"
        )
    if not vectors.exact:
        warnings.append(f"{vectors.kind} keeps its vectors compressed: the cache holds what comes back, approximately")
    if not are_units:
        warnings.append(f"the index holds vectors of {span}: the cache holds them as unit vectors")
    return tuple(warnings)


def _staging(conversion: CacheConversion) -> Path:
    """The folder in which the cache grows, new or left behind by a stopped run."""
    staging = conversion.folder.parent / f".{conversion.folder.name}.partial"
    left = read_conversion(staging)
    if left is None:
        staging.mkdir(parents=True, exist_ok=True)
        if not any(staging.iterdir()):
            left = conversion
            (staging / _RECORD).write_text(left.model_dump_json(exclude={"folder"}, indent=2) + "\n", encoding="utf-8")
    if left is None or (left.sha256, left.fingerprint) != (conversion.sha256, conversion.fingerprint):
        raise InvalidRequestError(
            f"{staging}: left behind by the conversion of another index or for another encoder; delete it"
        )
    return staging


def _fill(staging: Path, vectors: FaissIndex, conversion: CacheConversion, progress: bool) -> None:
    from ibllm_tools.store.visual_cache import VisualCache  # imports torch

    with VisualCache.open(staging, fingerprint=conversion.fingerprint, dimension=conversion.dimension) as cache:
        # Batches go in one after the other, so a stopped run ended in the one that the count points at.
        for start, rows in _batches(vectors, len(cache) // _BATCH * _BATCH, "storing", progress):
            cache.add(rows, [f"faiss-{position:08d}" for position in range(start, start + len(rows))])
        if len(cache) != conversion.features:
            raise StoreError(
                f"{staging}: it holds {len(cache):,} features, expected {conversion.features:,}; delete it, and "
                "convert the index again"
            )
        if cache.info().index.needed:
            cache.build_index(progress=progress)


def _batches(vectors: FaissIndex, first: int, what: str, progress: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Position of the first row, and rows (N, E), batch by batch."""
    bar: Any = tqdm(total=len(vectors), initial=first, desc=what, unit="vector", disable=None if progress else True)
    with bar:
        for start in range(first, len(vectors), _BATCH):
            rows = vectors.rows(start, min(start + _BATCH, len(vectors)))
            yield start, rows
            bar.update(len(rows))
