"""Shapes of things that are in no catalogue, so that the model can learn to say that it does not know them."""

from collections.abc import Callable

import numpy as np

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.mesh import Mesh
from ibllm_tools.mini.world.shapes import foreign, strange
from ibllm_tools.mini.world.shapes.variation import Variation

_TRAINING_BUILDERS = (
    *(strange.stack, strange.assembly, strange.symmetric_assembly, strange.radial_assembly, strange.block_pile),
    *(strange.twisted_prism, strange.spiky_blob, strange.bumpy_blob, strange.knot, strange.tangle, strange.spiral),
    *(strange.random_lathe, strange.random_plate, strange.chair, strange.table, strange.ladder),
    *(strange.mushroom, strange.dumbbell, strange.cactus),
)
_TEST_BUILDERS = (
    *(foreign.mug, foreign.holed_pyramid, foreign.star, foreign.key),
    *(foreign.hourglass, foreign.spectacles, foreign.anchor, foreign.snowman),
)

TRAINING_FAMILIES: tuple[str, ...] = tuple(builder.__name__ for builder in _TRAINING_BUILDERS)
"""The families of unknown things that the model is trained on."""

TEST_FAMILIES: tuple[str, ...] = tuple(builder.__name__ for builder in _TEST_BUILDERS)
"""The families of unknown things that the model sees for the first time when it is tested."""

UNKNOWN_FAMILIES: dict[str, Callable[[Variation], Mesh]] = {
    builder.__name__: builder for builder in (*_TRAINING_BUILDERS, *_TEST_BUILDERS)
}
"""What builds one thing of each family of unknown things."""

_WEIGHTS = np.array([3.0 if "assembly" in name or name == "stack" else 1.0 for name in TRAINING_FAMILIES])
_STRETCH = 0.25


def build_unknown_shape(rng: np.random.Generator, family: str | None = None) -> Mesh:
    """One thing that is in no catalogue.

    Args:
        rng: where the thing comes from; the same state gives the same mesh.
        family: one of ``UNKNOWN_FAMILIES``; by default one of ``TRAINING_FAMILIES``, random assemblies more often
            than the others because no two of them look alike.

    Returns:
        The mesh around the origin, in a sphere of radius 1, y up.

    Raises:
        InvalidRequestError: if there is no such family.
    """
    if family is None:
        family = str(rng.choice(TRAINING_FAMILIES, p=_WEIGHTS / _WEIGHTS.sum()))
    if family not in UNKNOWN_FAMILIES:
        raise InvalidRequestError(f"no family {family!r}; expected one of {', '.join(sorted(UNKNOWN_FAMILIES))}")
    v = Variation(rng)
    return UNKNOWN_FAMILIES[family](v).scale(v(1, _STRETCH), v(1, _STRETCH), v(1, _STRETCH)).fit()
