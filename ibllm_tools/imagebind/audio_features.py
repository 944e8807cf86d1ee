"""Sound as log-mel spectrograms: resampling, the filter bank, padding and normalisation, all on arrays.

The filter bank is Kaldi's, as ImageBind uses it (arXiv 2305.05665): frames of 25 ms every 10 ms. The window and the mel
filters come from :mod:`transformers.audio_utils`; framing and FFT run over the whole batch at once.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, window_function

SAMPLING_RATE = 16_000
FRAME_LENGTH = 400
HOP_LENGTH = 160
FFT_LENGTH = 512
PREEMPHASIS = 0.97
MEL_FLOOR = 2.0**-23
"""The smallest energy: float32's epsilon."""

AUDIO_MEAN = -4.268
AUDIO_STD = 9.138

RESAMPLE_WIDTH = 6
"""Zero crossings of the sinc on either side."""
RESAMPLE_ROLLOFF = 0.99
LARGEST_KERNEL = 1 << 20
"""Above this product of the coprime rates each output sample gets its own kernel."""
DIRECT_TAPS = 1 << 22
"""Products held at once there."""


@lru_cache(maxsize=16)
def _resampling_kernel(source: int, target: int) -> tuple[Tensor, int]:
    """The Hann-windowed sinc for coprime rates: kernels (target, 1, taps), and the padding on the left."""
    base = min(source, target) * RESAMPLE_ROLLOFF
    width = math.ceil(RESAMPLE_WIDTH * source / base)
    taps = torch.arange(-width, width + source, dtype=torch.float32)[None, None] / source  # (1, 1, taps)
    phases = torch.arange(0, -target, -1, dtype=torch.float32)[:, None, None] / target  # (target, 1, 1)
    times = ((phases + taps) * base).clamp(-RESAMPLE_WIDTH, RESAMPLE_WIDTH)
    window = torch.cos(times * math.pi / RESAMPLE_WIDTH / 2).square()
    angles = times * math.pi
    sinc = torch.where(angles == 0, torch.ones(()), angles.sin() / angles)
    return sinc * (window * (base / source)), width


def _resample_by_output(samples: Tensor, source: int, target: int, length: int) -> Tensor:
    """The same interpolation one output sample at a time, for rates whose kernel would be huge (44101 Hz: 3 GB)."""
    base = min(source, target) * RESAMPLE_ROLLOFF
    width = math.ceil(RESAMPLE_WIDTH * source / base)
    padded = F.pad(samples, (width, width + 1))
    taps = torch.arange(2 * width + 2)  # around the sample before the output's time
    parts = []
    for indices in torch.arange(length).split(max(DIRECT_TAPS // len(taps), 1)):
        nearest = indices * source // target
        phases = (indices * source % target).double() / target  # how far after the sample
        times = (taps - width - phases[:, None]) * (base / source)  # (chunk, taps), in zero crossings
        kernel = torch.sinc(times) * torch.cos(times * (math.pi / RESAMPLE_WIDTH / 2)).square() * (base / source)
        kernel = torch.where(times.abs() < RESAMPLE_WIDTH, kernel, 0.0).float()
        parts.append((padded[:, nearest[:, None] + taps] * kernel).sum(dim=-1))  # (C, chunk)
    return torch.cat(parts, dim=-1)


def resampling_margin(rate: int, target: int = SAMPLING_RATE) -> int:
    """How many samples of the source on either side an output sample depends on."""
    return math.ceil(RESAMPLE_WIDTH * rate / (min(rate, target) * RESAMPLE_ROLLOFF)) + 1


def resample(waveform: Tensor | NDArray[np.float32], rate: int, target: int = SAMPLING_RATE) -> Tensor:
    """Change the sampling rate with a Hann-windowed sinc, as torchaudio does by default.

    Args:
        waveform: (C, n) float samples.
        rate: their sampling rate in Hz.
        target: the wanted one in Hz.

    Returns:
        (C, ceil(n * target / rate)) float32.
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    if rate == target or samples.shape[-1] == 0:
        return samples
    divisor = math.gcd(rate, target)
    source, target = rate // divisor, target // divisor
    length = -(-samples.shape[-1] * target // source)
    if source * target > LARGEST_KERNEL:
        return _resample_by_output(samples, source, target, length)
    kernel, width = _resampling_kernel(source, target)
    padded = F.pad(samples, (width, width + source))[:, None]  # (C, 1, n)
    blocks = F.conv1d(padded, kernel, stride=source)  # (C, target, blocks)
    return blocks.transpose(1, 2).flatten(1)[:, :length]


@lru_cache(maxsize=8)
def _mel_filters(num_mel_bins: int) -> Tensor:
    """Triangles of equal width in mel between 20 Hz and 8 kHz, (257, mels)."""
    with warnings.catch_warnings():
        # below 100 Hz the triangles are narrower than an FFT bin, so some are empty; the research code has the same
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        filters = mel_filter_bank(
            num_frequency_bins=FFT_LENGTH // 2 + 1,
            num_mel_filters=num_mel_bins,
            min_frequency=20.0,
            max_frequency=SAMPLING_RATE / 2,
            sampling_rate=SAMPLING_RATE,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return torch.from_numpy(filters).float()


@lru_cache(maxsize=1)
def _window() -> Tensor:
    """The symmetric Hann window of a frame, (400,)."""
    return torch.from_numpy(window_function(FRAME_LENGTH, "hann", periodic=False)).float()


def log_mel(waveforms: Tensor | NDArray[np.float32], num_mel_bins: int = 128) -> Tensor:
    """Kaldi's log-mel filter bank.

    Args:
        waveforms: (B, n) float samples at 16 kHz; fewer than one frame of 400 are padded with zeros.
        num_mel_bins: triangles between 20 Hz and 8 kHz.

    Returns:
        (B, num_mel_bins, frames) float32, with ``frames = 1 + (n - 400) // 160``.
    """
    samples = torch.as_tensor(waveforms, dtype=torch.float32)
    if samples.shape[-1] < FRAME_LENGTH:
        samples = F.pad(samples, (0, FRAME_LENGTH - samples.shape[-1]))
    frames = samples.unfold(-1, FRAME_LENGTH, HOP_LENGTH)  # (B, frames, 400)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - PREEMPHASIS * previous) * _window()
    energies = torch.fft.rfft(frames, n=FFT_LENGTH).abs().square()  # (B, frames, 257)
    mels = energies @ _mel_filters(num_mel_bins)  # (B, frames, mels)
    return mels.clamp(min=MEL_FLOOR).log().transpose(1, 2)


def normalised_log_mel(
    waveforms: Tensor | NDArray[np.float32],
    num_mel_bins: int = 128,
    target_length: int = 204,
    mean: float = AUDIO_MEAN,
    std: float = AUDIO_STD,
) -> Tensor:
    """The audio tower's input: :func:`log_mel`, padded with zeros or cut, *then* normalised.

    Args:
        waveforms: (B, n) float samples at 16 kHz.
        num_mel_bins: rows.
        target_length: frames.
        mean: subtracted.
        std: divided by.

    Returns:
        (B, num_mel_bins, target_length) float32.
    """
    mels = log_mel(waveforms, num_mel_bins)[..., :target_length]
    padded = F.pad(mels, (0, target_length - mels.shape[-1]))
    return (padded - mean) / std


def drifting_clips(waveform: Tensor, bounds: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Clips as the research code cuts them: the left channel, less the mean over all channels, *in place*.

    A clip that overlaps an earlier one sees samples that were shifted before.

    Args:
        waveform: (C, n) samples; left untouched.
        bounds: first and last (exclusive) sample of each clip.

    Returns:
        One tensor (samples,) per clip.
    """
    samples = waveform.clone()
    clips = []
    for first, last in bounds:
        samples[:, first:last] -= samples[:, first:last].mean()
        clips.append(samples[0, first:last].clone())
    return clips


def read_mono(
    read: Callable[[int, int], NDArray[np.float32]],
    frames: int,
    rate: int,
    bounds: tuple[int, int],
    target: int = SAMPLING_RATE,
) -> Tensor:
    """A stretch of the resampled and mixed-down sound, reading no more of the source than it depends on.

    Args:
        read: gives samples from the first to the last (exclusive), (C, n).
        frames: how many the source has per channel.
        rate: of the source in Hz.
        bounds: first and last (exclusive) sample of the stretch, counted at ``target``.
        target: rate of the result in Hz.

    Returns:
        (n,) samples, the same as if all of the sound had been resampled.
    """
    divisor = math.gcd(rate, target)
    source_step, target_step = rate // divisor, target // divisor  # where both rates have a sample
    margin = resampling_margin(rate, target)
    first_step = max((bounds[0] * rate // target - margin) // source_step, 0)
    start = first_step * source_step
    stop = min(-(-bounds[1] * rate // target) + margin, frames)
    mono = read(start, stop).mean(axis=0, dtype=np.float32)[None]  # (1, n)
    offset = first_step * target_step
    return resample(mono, rate, target)[0, bounds[0] - offset : bounds[1] - offset]
