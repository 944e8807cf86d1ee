"""The base of what cites something: evidence, entries and hits."""

from typing import Self

from pydantic import BaseModel, ConfigDict, PrivateAttr

from ibllm_tools.attachments.origin import Origin


class Traceable(BaseModel):
    """A model whose subject can be opened again where its `Origin` is known. Its JSON does not tell the origin."""

    model_config = ConfigDict(frozen=True)

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def origin(self) -> Origin:
        """How to open again what it is about."""
        return self._origin

    def traced_to(self, origin: Origin) -> Self:
        """It itself, which knows its origin from now on."""
        self._origin = origin
        return self
