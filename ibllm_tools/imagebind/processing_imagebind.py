"""From attachments to the inputs of :class:`~ibllm_tools.imagebind.modeling_imagebind.ImageBindModel`.

This file only orchestrates: ``decoding`` turns an item into an array, ``*_features`` turn arrays into tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from ibllm_tools.errors import AttachmentError, InvalidRequestError, ModelNotFoundError
from ibllm_tools.imagebind import audio_features as audio_rules
from ibllm_tools.imagebind.clip_sampling import clip_spans, sample_ranges
from ibllm_tools.imagebind.configuration_imagebind import INPUT_NAMES, ImageBindConfig
from ibllm_tools.imagebind.decoding import (
    Bounds,
    Item,
    Sound,
    cloud_array,
    file_source,
    image_array,
    imu_array,
    is_clip_sequence,
    map_array,
    open_sound,
    sound_windows,
    text_string,
    video_frames,
    video_windows,
)
from ibllm_tools.imagebind.fingerprint import PROCESSOR_FILES
from ibllm_tools.imagebind.image_features import CLIP_MEAN, CLIP_STD, pixel_values
from ibllm_tools.imagebind.sensor_features import (
    disparity,
    imu_values,
    map_values,
    point_values,
    resampled_cloud,
    unit_range,
)
from ibllm_tools.imagebind.tokenization_imagebind import text_ids
from ibllm_tools.imagebind.video_features import clip_values
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality


class ImageBindProcessor(ProcessorMixin):
    """Decodes and prepares every modality of ImageBind.

    Args:
        tokenizer: CLIP's, see :mod:`ibllm_tools.imagebind.tokenization_imagebind`.
        image_size: side of images, frames, depth maps and thermal images in pixels.
        image_mean: of the RGB channels.
        image_std: of the RGB channels.
        num_mel_bins: rows of a spectrogram.
        audio_target_length: frames of a spectrogram, 10 ms each.
        sampling_rate: of the sound in Hz; the filter bank is made for 16000.
        clip_seconds: length of the clips of sounds and videos.
        audio_clips: per sound.
        audio_mean: of the log-mel energies.
        audio_std: of the log-mel energies.
        video_clips: per video.
        frames_per_clip: the first and the last of a clip, and evenly spaced ones between them.
        num_points: of a cloud.
        depth_mean: of disparities (nearest depth / depth) and thermal images, both within [0, 1].
        depth_std: of the same; with the defaults the values lie within [-1, 1].
        imu_samples: of an inertial measurement.
        context_length: token ids of a text.
        keep_end_token: whether a text that is too long keeps its end token, as in ImageBind. The copy of it inside
            ImageBind-LLM cuts the token off, after which all long texts have one and the same embedding.
        official: reproduce the research code. By default its habits that hurt are mended: EXIF orientation and rotation
            are applied, transparency is composited over white, stereo is mixed down (not: left channel only), the mean
            of each clip of sound is subtracted once, videos are cropped at the centre (not: at three places), clouds
            are centred, scaled and resampled, and meshes sampled on their surface. Every call can choose anew.

    Example:
        >>> inputs = processor(images="dog.jpg", audio=["bark.wav", "rain.mp3"])
        >>> outputs = model(**inputs)
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 224,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        num_mel_bins: int = 128,
        audio_target_length: int = 204,
        sampling_rate: int = audio_rules.SAMPLING_RATE,
        clip_seconds: float = 2.0,
        audio_clips: int = 3,
        audio_mean: float = audio_rules.AUDIO_MEAN,
        audio_std: float = audio_rules.AUDIO_STD,
        video_clips: int = 5,
        frames_per_clip: int = 2,
        num_points: int = 8192,
        depth_mean: float = 0.5,
        depth_std: float = 0.5,
        imu_samples: int = 2000,
        context_length: int = 77,
        keep_end_token: bool = True,
        official: bool = False,
    ) -> None:
        super().__init__(tokenizer)
        self.image_size, self.image_mean, self.image_std = image_size, list(image_mean), list(image_std)
        self.num_mel_bins, self.audio_target_length, self.sampling_rate = (
            num_mel_bins,
            audio_target_length,
            sampling_rate,
        )
        self.clip_seconds, self.audio_clips = clip_seconds, audio_clips
        self.audio_mean, self.audio_std = audio_mean, audio_std
        self.video_clips, self.frames_per_clip = video_clips, frames_per_clip
        self.num_points, self.imu_samples = num_points, imu_samples
        self.depth_mean, self.depth_std = depth_mean, depth_std
        self.context_length, self.keep_end_token = context_length, keep_end_token
        self.official = official

    @classmethod
    def from_pretrained(  # type: ignore[override]  # its own options are handed on
        cls, pretrained_model_name_or_path: str | PathLike[str], **options: Any
    ) -> Self:
        """Load from the folder of an ImageBind model, or its hub id; options as of transformers' processors.

        Raises:
            ModelNotFoundError: a file is missing in the folder. Without this check transformers would go on, with a
                tokenizer that knows no word, for example.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            for name in PROCESSOR_FILES:
                if not (folder / name).is_file():
                    raise ModelNotFoundError(f"{folder / name}: no such file; copy the model's folder whole")
        processor: Self = super().from_pretrained(pretrained_model_name_or_path, **options)
        return processor

    @property
    def model_input_names(self) -> list[str]:
        """The keys that a call can return."""
        return list(INPUT_NAMES.values())

    def __call__(
        self,
        images: Item | list[Item] = None,
        text: Item | list[Item] = None,
        audio: Item | list[Item] = None,
        videos: Item | list[Item] = None,
        points: Item | list[Item] = None,
        depth: Item | list[Item] = None,
        thermal: Item | list[Item] = None,
        imu: Item | list[Item] = None,
        official: bool | None = None,
        return_tensors: str = "pt",
        limits: Limits = DEFAULT_LIMITS,
    ) -> BatchFeature:
        """Prepare one item or a list of them per modality.

        An item is a path, the bytes of a file, or something decoded (see :mod:`ibllm_tools.imagebind.decoding`).

        Args:
            images: -> ``pixel_values`` (B, 3, S, S).
            text: -> ``input_ids`` (B, L).
            audio: -> ``input_features`` (B, clips, 1, mels, frames).
            videos: -> ``pixel_values_videos`` (B, clips, 3, T, S, S).
            points: -> ``point_values`` (B, N, 3).
            depth: -> ``depth_values`` (B, 1, S, S).
            thermal: -> ``thermal_values`` (B, 1, S, S).
            imu: -> ``imu_values`` (B, 6, samples).
            official: as in the class; that of the processor by default.
            return_tensors: ``"pt"``, the only kind.
            limits: bounds on what is decoded.

        Raises:
            InvalidRequestError: nothing was given, or items of shapes that do not fit.
            AttachmentError: an item cannot be decoded, see :mod:`ibllm_tools.errors`.
        """
        if return_tensors != "pt":
            raise InvalidRequestError(f"return_tensors={return_tensors!r}; expected 'pt'")
        given: dict[Modality, Item | list[Item]] = {
            "image": images,
            "video": videos,
            "text": text,
            "audio": audio,
            "depth": depth,
            "thermal": thermal,
            "imu": imu,
            "point": points,
        }
        data = {}
        for modality, items in given.items():
            if items is not None:
                batch = items if isinstance(items, list) and not is_clip_sequence(items) else [items]
                data[INPUT_NAMES[modality]] = self.process(modality, batch, official=official, limits=limits)
        if not data:
            raise InvalidRequestError(
                "nothing to process; pass at least one of images, text, audio, videos, points, ..."
            )
        return BatchFeature(data)

    def process(
        self,
        modality: Modality,
        sources: Sequence[Item],
        *,
        names: Sequence[str | None] | None = None,
        official: bool | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Tensor:
        """Prepare several items of one modality, in their order.

        Args:
            modality: what all of them are.
            sources: the items.
            names: the files' names, which tell a cloud in plain numbers (``.xyz``) from other text in bytes.
            official: as in the class; that of the processor by default.
            limits: bounds on what is decoded.

        Returns:
            The tensor that :meth:`__call__` has for this modality.
        """
        if modality not in INPUT_NAMES:
            raise InvalidRequestError(f"unknown modality {modality!r}; expected one of {', '.join(INPUT_NAMES)}")
        if not sources:
            raise InvalidRequestError(f"an empty list of {modality} items; expected at least one")
        official = self.official if official is None else official
        if modality == "point":
            names = [None] * len(sources) if names is None else names
            return _stacked(
                [self._points(item, limits, official, name) for item, name in zip(sources, names, strict=True)],
                modality,
            )
        prepare: dict[str, Callable[[Item, Limits, bool], Tensor]] = {
            "image": self._image,
            "text": self._text,
            "audio": self._audio,
            "video": self._video,
            "depth": self._depth,
            "thermal": self._thermal,
            "imu": self._imu,
        }
        return _stacked([prepare[modality](item, limits, official) for item in sources], modality)

    def process_windows(
        self,
        modality: Modality,
        source: Item,
        windows: Sequence[Bounds],
        *,
        official: bool | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Iterator[Tensor | AttachmentError]:
        """Prepare windows of one long sound or video, each as if it had been cut out as a file of its own.

        The file is gone through once, in order, and a window is there as soon as it is decoded; what is held does not
        grow with the file's length. A window that reaches the recording's end is cut there.

        Args:
            modality: ``"audio"`` or ``"video"``; the audio of a video is its sound.
            source: as in :meth:`process`; videos as a path or bytes only.
            windows: start and end of each in seconds, sorted by their start.
            official: as in the class; that of the processor by default.
            limits: bounds on what is decoded.

        Yields:
            Per window, in order, what :meth:`process` has for one item: audio (clips, 1, mels, frames), video (clips,
            3, T, S, S). Or why the window has none; the others are not concerned.

        Raises:
            InvalidRequestError: another modality, or a window that is empty, not in order, or after the end.
            AttachmentError: the recording as a whole cannot be used.
        """
        official = self.official if official is None else official
        if modality == "audio":
            for sound in sound_windows(open_sound(source, self.sampling_rate, limits), windows):
                try:
                    values = self._spectrograms(sound, official)
                except AttachmentError as error:
                    yield error
                else:
                    yield values
        elif modality == "video":
            sampling = (self.video_clips, self.clip_seconds, self.frames_per_clip)
            prepare = partial(self._clip_values, official=official)
            for clips in video_windows(source, windows, *sampling, prepare, limits, official=official):
                yield clips if isinstance(clips, AttachmentError) else torch.cat(clips)  # (clips * crops, 3, T, S, S)
        else:
            raise InvalidRequestError(f"windows of {modality}; expected audio or video, which last")

    def _image(self, item: Item, limits: Limits, official: bool) -> Tensor:
        image = image_array(item, limits, official=official)
        return pixel_values(image, self.image_size, self.image_mean, self.image_std)

    def _text(self, item: Item, limits: Limits, official: bool) -> Tensor:
        ids = text_ids(
            self.tokenizer, text_string(item, limits), self.context_length, keep_end_token=self.keep_end_token
        )
        return torch.tensor(ids)

    def _audio(self, item: Item, limits: Limits, official: bool) -> Tensor:
        return self._spectrograms(open_sound(item, self.sampling_rate, limits), official)

    def _spectrograms(self, sound: Sound, official: bool) -> Tensor:
        clips = self._official_clips(sound) if official else self._clips(sound)
        spectrograms = [
            audio_rules.normalised_log_mel(
                clip[None], self.num_mel_bins, self.audio_target_length, self.audio_mean, self.audio_std
            )
            for clip in clips
        ]
        return torch.stack(spectrograms)  # (clips, 1, mels, frames)

    def _clips(self, sound: Sound) -> list[Tensor]:
        """Mono clips without their mean; nothing is read but their surroundings."""
        samples = -(-sound.frames * self.sampling_rate // sound.rate)
        spans = clip_spans(Fraction(samples, self.sampling_rate), self.audio_clips, self.clip_seconds)
        ranges = sample_ranges(spans, self.sampling_rate, samples)
        clips = {
            bounds: audio_rules.read_mono(sound.read, sound.frames, sound.rate, bounds, self.sampling_rate)
            for bounds in dict.fromkeys(ranges)  # a short sound is read once
        }
        return [clips[bounds] - clips[bounds].mean() for bounds in ranges]

    def _official_clips(self, sound: Sound) -> list[Tensor]:
        """Clips of the left channel, each shifted by the means of those before it that it overlaps."""
        waveform = audio_rules.resample(sound.read(0, sound.frames), sound.rate, self.sampling_rate)
        samples = waveform.shape[1]
        spans = clip_spans(samples / self.sampling_rate, self.audio_clips, self.clip_seconds)
        return audio_rules.drifting_clips(waveform, sample_ranges(spans, self.sampling_rate, samples))

    def _video(self, item: Item, limits: Limits, official: bool) -> Tensor:
        clips = video_frames(item, self.video_clips, self.clip_seconds, self.frames_per_clip, limits, official=official)
        return torch.cat([self._clip_values(frames, official) for frames in clips])  # (clips * crops, 3, T, S, S)

    def _clip_values(self, frames: NDArray[np.uint8], official: bool) -> Tensor:
        return clip_values(frames, self.image_size, self.image_mean, self.image_std, official=official)

    def _points(self, item: Item, limits: Limits, official: bool, name: str | None) -> Tensor:
        points = cloud_array(item, self.num_points, limits, name=name, official=official)
        if official:
            return torch.from_numpy(points)
        if file_source(item) is not None:  # centred and scaled by the decoder
            return torch.from_numpy(resampled_cloud(points, self.num_points))
        return point_values(points, self.num_points)

    def _depth(self, item: Item, limits: Limits, official: bool) -> Tensor:
        return self._map(disparity(map_array(item, limits)))

    def _thermal(self, item: Item, limits: Limits, official: bool) -> Tensor:
        return self._map(unit_range(map_array(item, limits)))

    def _map(self, values: NDArray[np.float32]) -> Tensor:
        return map_values(values, self.image_size, self.depth_mean, self.depth_std)

    def _imu(self, item: Item, limits: Limits, official: bool) -> Tensor:
        return imu_values(imu_array(item, limits), self.imu_samples)


def _stacked(tensors: list[Tensor], modality: str) -> Tensor:
    """The items of a batch in one tensor.

    Raises:
        InvalidRequestError: their shapes differ.
    """
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise InvalidRequestError(
            f"{modality} items of shapes {', '.join(map(str, shapes))}; expected one shape per batch, "
            "process them one by one"
        )
    return torch.stack(tensors)


AutoProcessor.register(ImageBindConfig, ImageBindProcessor, exist_ok=True)
