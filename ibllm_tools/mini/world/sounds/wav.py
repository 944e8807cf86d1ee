"""Sounds to files."""

from pathlib import Path

from ibllm_tools.errors import MissingExtraError
from ibllm_tools.mini.world.sounds.synthesis import SAMPLE_RATE, Samples


def write_wav(path: str | Path, samples: Samples) -> None:
    """Write mono samples in [-1, 1] as a 16-bit PCM WAV file at 16 kHz.

    Raises:
        MissingExtraError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("writing WAV files", "soundfile", "audio") from error
    soundfile.write(str(path), samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
