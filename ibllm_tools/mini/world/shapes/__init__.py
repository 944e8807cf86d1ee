"""The shapes of the world's things, and of things from outside the world."""

from ibllm_tools.mini.world.shapes.known import build_shape
from ibllm_tools.mini.world.shapes.unknown import (
    TEST_FAMILIES,
    TRAINING_FAMILIES,
    UNKNOWN_FAMILIES,
    build_unknown_shape,
)

__all__ = ["TEST_FAMILIES", "TRAINING_FAMILIES", "UNKNOWN_FAMILIES", "build_shape", "build_unknown_shape"]
