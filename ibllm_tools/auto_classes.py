"""``AutoModel`` and its like find our classes once ``ibllm_tools`` is imported, though that loads no transformers.

Our modules register their classes at their end, but importing them takes seconds. Until then stand-ins are registered,
which import them when first used; and these no sooner than somebody imports transformers' own auto modules.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_IMAGEBIND = "ibllm_tools.imagebind"
_IMAGEBIND_LLM = "ibllm_tools.imagebind_llm"
_AUTO = "transformers.models.auto"


def register_with_transformers() -> None:
    """Make ``AutoConfig``, ``AutoModel``, ``AutoModelForCausalLM`` and ``AutoProcessor`` know our classes.

    Where transformers is not imported that far, this happens as soon as it is.
    """
    waiting = {}
    for name, register in _REGISTRATIONS.items():
        if (module := sys.modules.get(name)) is not None:
            register(module)
        else:
            waiting[name] = register
    if waiting:
        sys.meta_path.insert(0, _Watch(waiting))


class _StandIn(type):
    """Makes a class that is known by name and, as ``home``, by package; it is imported when it is first used."""

    def __getattr__(cls, attribute: str) -> Any:
        return getattr(cls._real(), attribute)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def _real(cls) -> Any:
        return getattr(import_module(cls.__dict__["home"]), cls.__name__)


def _register_configurations(auto: ModuleType) -> None:
    imagebind = _StandIn("ImageBindConfig", (), {"home": _IMAGEBIND})
    auto.AutoConfig.register("imagebind", imagebind, exist_ok=True)
    # its package imports the model as well, which then registers itself
    imagebind_llm = _StandIn("ImageBindLlmConfig", (), {"home": _IMAGEBIND_LLM})
    auto.AutoConfig.register("imagebind_llm", imagebind_llm, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    config = import_module(_IMAGEBIND).ImageBindConfig  # the key has to be the class itself; by now it is cheap
    model = _StandIn("ImageBindModel", (), {"home": _IMAGEBIND, "config_class": config})
    auto.AutoModel.register(config, model, exist_ok=True)


def _register_processors(auto: ModuleType) -> None:
    config = import_module(_IMAGEBIND).ImageBindConfig
    processor = _StandIn("ImageBindProcessor", (), {"home": _IMAGEBIND})
    auto.AutoProcessor.register(config, processor, exist_ok=True)


_Registration = Callable[[ModuleType], None]
_REGISTRATIONS: dict[str, _Registration] = {
    f"{_AUTO}.configuration_auto": _register_configurations,
    f"{_AUTO}.modeling_auto": _register_models,
    f"{_AUTO}.processing_auto": _register_processors,
}


class _Watch(MetaPathFinder):
    """Calls a function with a module right after it has been imported; leaves when nothing is left to wait for."""

    def __init__(self, waiting: dict[str, _Registration]) -> None:
        self.waiting = waiting

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification that the other finders give, with our loader around theirs."""
        if fullname not in self.waiting:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _WatchedLoader(spec.loader, self)
                return spec
        return None

    def imported(self, module: ModuleType) -> None:
        """Do what waited for this module."""
        self.waiting.pop(module.__name__)(module)
        if not self.waiting:
            sys.meta_path.remove(self)


class _WatchedLoader(Loader):
    """A module's own loader, which tells when it is done and takes its place again."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self.loader, self.watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.watch.imported(module)
