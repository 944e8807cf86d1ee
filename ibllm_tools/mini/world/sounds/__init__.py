"""What the things of the world sound like: a recipe for each kind, recordings of them, and sounds of nothing."""

from ibllm_tools.mini.world.sounds.recording import record, synthesise
from ibllm_tools.mini.world.sounds.synthesis import SAMPLE_RATE
from ibllm_tools.mini.world.sounds.unknown import TEST_SOUND_FAMILIES, TRAINING_SOUND_FAMILIES, synthesise_unknown
from ibllm_tools.mini.world.sounds.wav import write_wav

__all__ = [
    "SAMPLE_RATE",
    "TEST_SOUND_FAMILIES",
    "TRAINING_SOUND_FAMILIES",
    "record",
    "synthesise",
    "synthesise_unknown",
    "write_wav",
]
