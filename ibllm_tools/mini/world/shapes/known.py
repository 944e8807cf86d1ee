"""The shape of every kind of thing in the catalogue."""

from collections.abc import Callable

import numpy as np

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.mesh import Mesh
from ibllm_tools.mini.world.shapes import animals, household, instruments, outdoors, vehicles
from ibllm_tools.mini.world.shapes.variation import Variation

_STRETCH = 0.07

_BUILDERS: dict[str, Callable[[Variation], Mesh]] = {
    builder.__name__: builder
    for builder in (
        *(animals.bird, animals.bee, animals.dog, animals.cat, animals.duck, animals.frog),
        *(vehicles.car, vehicles.train, vehicles.ship, vehicles.helicopter, vehicles.rocket),
        *(instruments.bell, instruments.drum, instruments.guitar, instruments.piano),
        *(instruments.trumpet, instruments.whistle, instruments.rattle, instruments.siren),
        *(household.clock, household.phone, household.ball, household.hammer, household.kettle),
        *(household.door, household.fan, household.saw, household.camera, household.tap),
        *(outdoors.cloud, outdoors.fire, outdoors.tree, outdoors.robot),
    )
}


def build_shape(kind: str, rng: np.random.Generator) -> Mesh:
    """One thing of a kind, with proportions, counts and details of its own.

    Args:
        kind: one of the catalogue's ``KIND_NAMES``.
        rng: where the variation comes from; the same state gives the same mesh.

    Returns:
        The mesh around the origin, in a sphere of radius 1, y up, its most telling side towards +z.

    Raises:
        InvalidRequestError: if the catalogue has no such kind.
    """
    if kind not in _BUILDERS:
        raise InvalidRequestError(f"no shape for {kind!r}; expected one of {', '.join(sorted(_BUILDERS))}")
    v = Variation(rng)
    return _BUILDERS[kind](v).scale(v(1, _STRETCH), v(1, _STRETCH), v(1, _STRETCH)).fit()
