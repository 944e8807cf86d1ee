"""A model's folder is the old one or the new one, whole, whatever happens while it is written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from disk_operations import before_each_operation, skip_without_exchange
from safetensors.torch import load_file
from tiny_encoder import NAME, assert_holds, planned, weights_of, write
from torch import Tensor

from ibllm_tools.checkpoints import staging
from ibllm_tools.checkpoints.writing import PlannedWeight
from ibllm_tools.errors import InvalidRequestError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where folders are written: nothing else is in there."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


# ---- replacing


def test_a_folder_with_something_in_it_is_left_alone(place: Path) -> None:
    write(place / "model")
    with pytest.raises(InvalidRequestError, match="not empty"):
        write(place / "model", planned(weights_of(1)))
    assert_holds(place / "model", 0)


def test_an_empty_folder_is_filled(place: Path) -> None:
    (place / "model").mkdir()
    write(place / "model")
    assert_holds(place / "model", 0)


def test_a_model_is_overwritten_on_demand(place: Path) -> None:
    write(place / "model", max_shard_bytes=5000)
    write(place / "model", planned(weights_of(1)), overwrite=True)
    assert_holds(place / "model", 1)
    assert [path.name for path in place.iterdir()] == ["model"]
    assert len(list((place / "model").glob("model*"))) == 1


@pytest.mark.parametrize(
    ("foreign", "complaint"),
    [
        ("imagebind_huge.pth", "no part of a model .imagebind_huge.pth"),
        ("holiday.safetensors", "no part of a model .holiday.safetensors"),
        ("notes.txt", "no part of a model .notes.txt"),
        ("visual_cache/chroma.sqlite3", "has a visual cache, .* move visual_cache away"),
    ],
)
def test_a_folder_with_files_of_others_is_not_overwritten(place: Path, foreign: str, complaint: str) -> None:
    write(place / "model")
    (place / "model" / foreign).parent.mkdir(exist_ok=True)
    (place / "model" / foreign).write_text("precious")
    with pytest.raises(InvalidRequestError, match=complaint):
        write(place / "model", overwrite=True)
    assert (place / "model" / foreign).read_text() == "precious"


def test_a_folder_without_a_model_is_not_overwritten(place: Path) -> None:
    (place / "README.md").write_text("precious")
    with pytest.raises(InvalidRequestError, match="holds no converted model"):
        write(place, overwrite=True)
    assert (place / "README.md").read_text() == "precious"


# ---- interruptions


def test_an_interrupt_leaves_nothing(place: Path) -> None:
    def interrupt() -> Tensor:
        raise KeyboardInterrupt

    plan = planned(weights_of(0))
    plan[-1] = PlannedWeight(plan[-1].name, plan[-1].shape, plan[-1].dtype, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(place / "model", plan, max_shard_bytes=5000)
    assert list(place.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next(place: Path) -> None:
    left = place / ".model.partial" / "new"
    left.mkdir(parents=True)
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half")
    write(place / "model")
    assert_holds(place / "model", 0)
    assert [path.name for path in place.iterdir()] == ["model"]


def test_two_processes_do_not_write_one_folder(place: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (place / ".model.partial").mkdir()
    with (place / ".model.partial" / ".ibllm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequestError, match="another process is writing it"):
            write(place / "model")
    write(place / "model")


def seen_states(folder: Path, run: Callable[[], None]) -> list[str]:
    """What the folder is before each file operation of a run and after it, each state once: seeds, or what is wrong."""
    digests = {bytes(weights_of(seed)[NAME].numpy().data): str(seed) for seed in (0, 1)}
    states: list[str] = []
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        state = "absent"
        if folder.exists():
            stored = load_file(folder / "model.safetensors")
            assert stored.keys() == weights_of(0).keys()
            assert {file.name for file in folder.iterdir()} >= {"config.json", "README.md", "processor_config.json"}
            state = digests[bytes(stored[NAME].numpy().data)]
        if states[-1:] != [state]:
            states.append(state)

    with before_each_operation(look):
        run()
    look()
    assert looks > 10
    return states


def test_a_new_folder_is_absent_or_whole_at_any_time(place: Path) -> None:
    assert seen_states(place / "model", lambda: write(place / "model")) == ["absent", "0"]


def test_an_overwritten_folder_is_the_old_or_the_new_model_at_any_time(place: Path) -> None:
    skip_without_exchange(place)
    write(place / "model")
    replace = partial(write, place / "model", planned(weights_of(1)), overwrite=True)
    assert seen_states(place / "model", replace) == ["0", "1"]


def test_without_an_exchange_of_folders_the_old_one_comes_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "model")
    monkeypatch.setattr(staging, "_exchanged", lambda *_: False)
    moved = Path.rename

    def interrupt_the_second(source: Path, target: Path) -> Path:
        if source.name == "new":
            raise KeyboardInterrupt
        return moved(source, target)

    monkeypatch.setattr(Path, "rename", interrupt_the_second)
    with pytest.raises(KeyboardInterrupt):
        write(place / "model", planned(weights_of(1)), overwrite=True)
    assert_holds(place / "model", 0)
    assert [path.name for path in place.iterdir()] == ["model"]


def test_a_kill_between_two_moves_is_healed_by_the_next_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "model")
    (place / ".model.partial").mkdir()
    (place / "model").rename(place / ".model.partial" / "old")
    with pytest.raises(InvalidRequestError, match="not empty"):
        write(place / "model")
    assert_holds(place / "model", 0)
    monkeypatch.setattr(staging, "_exchanged", lambda *_: False)
    write(place / "model", planned(weights_of(1)), overwrite=True)
    assert_holds(place / "model", 1)
    assert [path.name for path in place.iterdir()] == ["model"]
