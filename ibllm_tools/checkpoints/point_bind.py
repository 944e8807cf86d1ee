"""Point-Bind's checkpoint -> the point tower of a converted ImageBind, or of the one inside an ImageBind-LLM.

The folder is made anew beside its place and then exchanged with it, so it is always the old model or the new one. Files
that stay are linked, not copied: it takes the room of the point tower, not that of the model.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from ibllm_tools.checkpoints.imagebind import read_processor
from ibllm_tools.checkpoints.known_files import POINT_BIND_LICENCE
from ibllm_tools.checkpoints.model_card import with_section
from ibllm_tools.checkpoints.model_weights import INDEX_FILE, ModelWeights
from ibllm_tools.checkpoints.reading import OfficialFile, OfficialWeight, SourceFile
from ibllm_tools.checkpoints.staging import heal, staged_folder
from ibllm_tools.checkpoints.visual_cache import CACHE_FOLDER
from ibllm_tools.checkpoints.writing import (
    CARD_FILE,
    CONFIG_FILE,
    ROOM_BESIDE_WEIGHTS,
    Conversion,
    PlannedWeight,
    main_dtype,
    model_type,
    progress_bar,
    require_weights_of,
    shard_names,
    split_into_shards,
    stored_dtype,
    write_index,
    write_shard,
)
from ibllm_tools.errors import (
    CheckpointError,
    IncompatibleModelError,
    InvalidRequestError,
    ModelNotFoundError,
    one_line,
)
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig, ImageBindPointConfig
from ibllm_tools.imagebind.fingerprint import (
    ENCODER_FILE,
    ENCODER_PREFIX,
    EncoderDigest,
    store_fingerprint,
    stored_fingerprint,
)
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.official_weights import (
    official_name,
    our_name,
    point_bind_weights,
    require_official_weights,
)
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration

_SECTION = "Point clouds"
_SUMMARY = (
    "The point tower was taken from Point-Bind's checkpoint (arXiv 2309.00615), and given to this model later: what is "
    "said above about point clouds, if anything, holds no longer."
)
_TOWER = "point_model."
_TOWERS = ("vision", "text", "audio", "depth", "thermal", "imu")
_ROUNDING = 0.01
"""How far apart weights are, of their length, that differ by nothing but the rounding to another type."""


@dataclass(frozen=True)
class _Host:
    """The model that gets the point tower."""

    folder: Path
    config: ImageBindConfig | ImageBindLlmConfig
    model_class: type[PreTrainedModel]
    prefix: str
    weights: ModelWeights
    processor: ImageBindProcessor

    @property
    def encoder_config(self) -> ImageBindConfig:
        """That of the joint embedding."""
        inner = self.config.imagebind_config if isinstance(self.config, ImageBindLlmConfig) else self.config
        assert isinstance(inner, ImageBindConfig)
        return inner

    def planned(self, names: Iterable[str]) -> list[PlannedWeight]:
        """Weights as they are."""
        weights = self.weights.lazily()
        chosen = ((name, weights[name]) for name in names)
        return [PlannedWeight(name, own.shape, own.dtype, own.read, own.origin) for name, own in chosen]


def convert_point_bind(
    checkpoint: str | Path, *, into: str | Path, config: ImageBindConfig | None = None, progress: bool = True
) -> Conversion:
    """Give a converted ImageBind or ImageBind-LLM the point tower of Point-Bind, or another one.

    Args:
        checkpoint: Point-Bind's own file with a Point-BERT encoder, or ``imagebind_w3D.pth``, of which nothing but the
            point tower is taken.
        into: the folder of the model. It changes in one step, and is whole at any time.
        config: where the tower has not the published size; only its ``point_config`` counts.
        progress: show bars, on a terminal.

    Raises:
        CheckpointError: not such a checkpoint, or one of another size; or ``into`` is damaged.
        ModelNotFoundError, IncompatibleModelError: ``into`` is not a converted model.
        InvalidRequestError: ``into`` cannot be written, or has a visual cache.
    """
    folder = Path(into).expanduser()
    heal(folder)  # before it is said that there is no model
    host = _read_host(folder)
    _require_no_cache(host.folder)
    file = OfficialFile(checkpoint)
    official = point_bind_weights(file.weights(), origin=str(file.path))
    host.encoder_config.point_config = _point_config(config)
    wanted = ImageBindConfig(
        point_config=host.encoder_config.point_config, projection_dim=host.encoder_config.projection_dim
    )
    shapes = {name: weight.shape for name, weight in official.items()}
    require_official_weights(shapes, wanted, origin=str(file.path))
    warnings = _other_towers(file, host)
    source = file.source("Point-Bind's weights", progress=progress)
    file.release()
    layout = _Layout.of(host, _planned_points(official, host))
    _write(host, layout, _card(host, source, warnings), progress=progress)
    return Conversion.of(host.folder, layout.weights, (source,), (POINT_BIND_LICENCE,), warnings)


@dataclass(frozen=True)
class _Layout:
    """Which weight will be in which file.

    Attributes:
        kept: files that stay, by their new names.
        shards: what is in each file, by its new name.
    """

    kept: Mapping[str, str]
    shards: Mapping[str, list[PlannedWeight]]

    @classmethod
    def of(cls, host: _Host, points: list[PlannedWeight]) -> Self:
        """Files without points stay; what else is in those with points is written again, with the new points."""
        homes = host.weights.homes
        replaced = {name for name in homes if name.startswith(f"{host.prefix}{_TOWER}")}
        touched = {homes[name] for name in replaced}
        kept = sorted(set(host.weights.files) - touched)
        rest = [name for name, home in homes.items() if home in touched and name not in replaced]
        written = split_into_shards([*host.planned(rest), *points])
        names = shard_names(len(kept) + len(written))
        stays = [host.planned(name for name, home in homes.items() if home == file) for file in kept]
        return cls(dict(zip(names, kept, strict=False)), dict(zip(names, [*stays, *written], strict=True)))

    @property
    def weights(self) -> list[PlannedWeight]:
        """All weights of the model."""
        return [weight for shard in self.shards.values() for weight in shard]

    @property
    def new(self) -> dict[str, list[PlannedWeight]]:
        """What is to be written."""
        return {file: shard for file, shard in self.shards.items() if file not in self.kept}


def _write(host: _Host, layout: _Layout, card: str, *, progress: bool) -> None:
    require_weights_of(host.model_class, host.config, layout.weights, origin=str(host.folder))
    digest = EncoderDigest(host.processor)
    written = [weight for shard in layout.new.values() for weight in shard]
    room = sum(weight.nbytes for weight in written) + ROOM_BESIDE_WEIGHTS
    has_fingerprint = stored_fingerprint(host.folder) is not None
    with staged_folder(host.folder, bytes_needed=room, require_target=_require_model) as staging:
        _link_rest(host, staging)
        for file, old in layout.kept.items():
            _link(host.folder / old, staging / file)
        host.config.save_pretrained(staging)
        (staging / CARD_FILE).write_text(card, encoding="utf-8")
        with progress_bar(host.folder.name, written, progress) as bar:
            for file, shard in layout.new.items():
                write_shard(staging / file, shard, bar, digest=digest, encoder_prefix=host.prefix)
                host.weights.release()
        write_index(staging, layout.shards)
        if has_fingerprint:
            store_fingerprint(staging, _fingerprint(host, layout, progress=progress))


def _fingerprint(host: _Host, layout: _Layout, *, progress: bool) -> str:
    """That of the encoder with its new tower; all of its weights are read."""
    digest, home = EncoderDigest(host.processor), None
    encoder = sorted((w for w in layout.weights if w.name.startswith(host.prefix)), key=lambda weight: weight.name)
    with progress_bar(f"{host.folder.name}, fingerprint", encoder, progress) as bar:
        for weight in encoder:
            if home != host.weights.homes.get(weight.name):
                home = host.weights.homes.get(weight.name)
                host.weights.release()
            digest.update(weight.name.removeprefix(host.prefix), weight.make().to(weight.dtype))
            bar.update(weight.nbytes)
    host.weights.release()
    return digest.hexdigest()


def _read_host(folder: Path) -> _Host:
    _require_model(folder)
    config: ImageBindConfig | ImageBindLlmConfig
    model_class: type[PreTrainedModel]
    try:
        if model_type(folder) == ImageBindConfig.model_type:
            config, model_class, prefix = ImageBindConfig.from_pretrained(folder), ImageBindModel, ""
        else:
            config = ImageBindLlmConfig.from_pretrained(folder)
            model_class, prefix = ImageBindLlmForConditionalGeneration, ENCODER_PREFIX
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be used ({one_line(error)}); convert it again") from error
    return _Host(folder, config, model_class, prefix, ModelWeights(folder), read_processor(folder))


def _require_model(folder: Path) -> None:
    found = model_type(folder)
    if found is None:
        raise ModelNotFoundError(f"{folder}: no model in it; convert ImageBind first, and name its folder")
    if found not in (ImageBindConfig.model_type, ImageBindLlmConfig.model_type):
        raise IncompatibleModelError(
            f"{folder}: a model of type {found!r}, expected a converted ImageBind or ImageBind-LLM"
        )


def _require_no_cache(folder: Path) -> None:
    """A cache is tied to the encoder as it was, so the model would refuse to answer with it."""
    if (folder / CACHE_FOLDER).exists():
        raise InvalidRequestError(
            f"{folder}: its visual cache is tied to the encoder as it is; delete {CACHE_FOLDER} in it, add the points, "
            "and convert the cache again"
        )


def _point_config(config: ImageBindConfig | None) -> ImageBindPointConfig:
    if config is None:
        return ImageBindPointConfig()
    if not isinstance(config.point_config, ImageBindPointConfig):
        raise InvalidRequestError("the configuration has no point_config; expected that of a model with points")
    return config.point_config


def _planned_points(official: Mapping[str, OfficialWeight], host: _Host) -> list[PlannedWeight]:
    """The new tower, in the type that the encoder has."""
    dtype = main_dtype(host.planned(name for name in host.weights if name.startswith(host.prefix)))
    return [
        PlannedWeight(
            host.prefix + our_name(name), weight.shape, stored_dtype(weight.dtype, dtype), weight.read, weight.origin
        )
        for name, weight in official.items()
    ]


def _other_towers(file: OfficialFile, host: _Host) -> tuple[str, ...]:
    """A warning if the points were trained towards another ImageBind, whose vectors theirs will not be near."""
    others = []
    for tower in _TOWERS:
        name = f"{tower}_model.projection.weight"
        key = official_name(name)
        theirs = next((file[known] for known in (key, f"bind.{key}") if known in file), None)
        if theirs is None or host.prefix + name not in host.weights:
            continue
        ours = host.weights[host.prefix + name].float()
        same = ours.shape == theirs.shape and (ours - theirs.float()).norm() <= _ROUNDING * ours.norm()
        others += [] if same else [tower]
    if not others:
        return ()
    return (
        f"{file.path.name}: its points were trained with another ImageBind than {host.folder.name} is "
        f"({', '.join(others)} differ), so they may lie far from what they show",
    )


def _card(host: _Host, source: SourceFile, warnings: tuple[str, ...]) -> str:
    file = host.folder / CARD_FILE
    card = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else f"# {host.folder.name}\n"
    return with_section(card, _SECTION, _SUMMARY, licences=(POINT_BIND_LICENCE,), sources=(source,), warnings=warnings)


def _link_rest(host: _Host, staging: Path) -> None:
    """Take over every file but those that are made anew."""
    made = {*host.weights.files, INDEX_FILE, CONFIG_FILE, ENCODER_FILE, CARD_FILE}

    def ignored(folder: str, _: list[str]) -> set[str]:
        return made if Path(folder) == host.folder else set()

    shutil.copytree(host.folder, staging, copy_function=_link, ignore=ignored, dirs_exist_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # the file system cannot, or the file is on another one
        shutil.copy2(source, target)
