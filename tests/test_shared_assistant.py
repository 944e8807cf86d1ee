"""One model per process for every face."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_model import saved_tiny_model

from ibllm_tools import Access, Assistant
from ibllm_tools.assistant import constrained, shared
from ibllm_tools.assistant.shared import release_shared_assistants, shared_assistant
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError, ModelNotFoundError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny_model(tmp_path_factory)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is loaded before; what other tests of this process share stays as it is."""
    monkeypatch.setattr(shared, "_LOADED", {})
    yield
    release_shared_assistants()


def test_equal_settings_share_the_weights(folder: Path) -> None:
    first, second = shared_assistant(folder, device="cpu"), shared_assistant(str(folder), device="cpu")
    assert first.model is second.model
    assert shared_assistant(folder, device="cpu", dtype="bfloat16").model is not first.model


def test_many_threads_load_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = Assistant.load

    def counted(*args: Any, **options: Any) -> Assistant:
        loads.append(args)
        return load(*args, **options)

    monkeypatch.setattr(Assistant, "load", counted)
    with ThreadPoolExecutor(8) as pool:
        models = {id(item.model) for item in pool.map(lambda _: shared_assistant(folder, device="cpu"), range(8))}
    assert len(loads) == len(models) == 1


def test_each_has_its_own_access(folder: Path, picture: Path, tmp_path: Path) -> None:
    free = shared_assistant(folder, device="cpu")
    bound = shared_assistant(folder, device="cpu", access=Access(roots=tmp_path / "elsewhere"))
    assert free.ask("What is this?", picture).evidence[0].name == picture.name
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        bound.ask("What is this?", picture)


def test_the_vocabulary_of_structured_answers_is_taken_apart_once(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = constrained._vocabulary

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(constrained, "_vocabulary", counted)
    whole = Assistant(assistant.model, assistant.processor, fingerprint=assistant.embedder.fingerprint)
    for view in (shared.with_access(whole, Access()), shared.with_access(whole, Access(roots=[]))):
        assert view.ask("What?", schema={"const": 1}).text == "1"
    assert len(made) == 1


def test_the_answers_are_those_of_an_assistant_of_its_own(folder: Path, picture: Path) -> None:
    with Assistant.load(folder, device="cpu") as own:
        expected = own.ask("What is this?", picture)
    answer = shared_assistant(folder, device="cpu").ask("What is this?", picture)
    assert (answer.text, answer.cache, answer.model) == (expected.text, True, expected.model)


def test_closing_one_leaves_the_visual_cache_to_the_others(folder: Path, picture: Path) -> None:
    with shared_assistant(folder, device="cpu") as first:
        assert first.ask("What is this?", picture).cache
    assert shared_assistant(folder, device="cpu").ask("What is this?", picture).cache


def test_without_a_cache_none_is_used(folder: Path, picture: Path) -> None:
    bare = shared_assistant(folder, device="cpu", cache=False)
    assert not bare.ask("What is this?", picture).cache
    with pytest.raises(InvalidRequestError, match="no visual cache"):
        bare.ask("What is this?", picture, use_cache=True)


def test_releasing_forgets_the_weights_and_leaves_those_in_use(folder: Path, picture: Path) -> None:
    held = shared_assistant(folder, device="cpu")
    release_shared_assistants()
    assert not held.ask("What is this?", picture).cache
    assert shared_assistant(folder, device="cpu").model is not held.model


def test_what_cannot_be_loaded_is_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            shared_assistant(tmp_path / "nowhere")
