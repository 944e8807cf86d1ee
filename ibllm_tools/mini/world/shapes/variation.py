"""How one thing differs from the next of its kind."""

import numpy as np


class Variation:
    """Draws the proportions, counts and details of one thing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, value: float, spread: float = 0.2) -> float:
        """``value``, up to ``spread`` (a fraction of it) more or less."""
        return value * (1 + spread * (2 * self.rng.random() - 1))

    def between(self, low: float, high: float) -> float:
        """A number from [low, high)."""
        return float(low + (high - low) * self.rng.random())

    def count(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def maybe(self, probability: float = 0.5) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)
