"""One official file: read whatever its format, lazily, and never executed."""

import argparse
import gzip
import hashlib
import io
import os
import pickle
import random
import sqlite3
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ibllm_tools.checkpoints.reading import OfficialFile, SourceFile, source_file
from ibllm_tools.errors import CheckpointError


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


FORMATS: dict[str, Callable[[Any, Path], None]] = {"zip": zipped, "legacy": legacy, "safetensors": save_file}
PICKLED = ["zip", "legacy"]


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return OrderedDict(
        {
            "layers.0.weight": torch.randn(7, 5, generator=generator).half(),
            "layers.0.bias": torch.randn(7, generator=generator),
            "scale": torch.tensor(2.5),
            "steps": torch.tensor([3, 4]),
        }
    )


def written(path: Path, form: str = "zip", content: Any = None) -> Path:
    FORMATS[form](weights() if content is None else content, path)
    return path


def assert_equal(found: OfficialFile, expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def reason(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        OfficialFile(path).shapes  # noqa: B018  # the access is what raises
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# What is read


@pytest.mark.parametrize("form", FORMATS)
def test_a_state_dict_is_read_in_every_format(form: str, tmp_path: Path) -> None:
    assert_equal(OfficialFile(written(tmp_path / "weights.pth", form)), weights())


@pytest.mark.parametrize("form", FORMATS)
def test_the_format_shows_in_the_content_not_in_the_name(form: str, tmp_path: Path) -> None:
    assert_equal(OfficialFile(written(tmp_path / "weights.jpg", form)), weights())


@pytest.mark.parametrize("form", PICKLED)
def test_a_pytorch_file_that_claims_to_be_safetensors_is_to_be_renamed(form: str, tmp_path: Path) -> None:
    assert "rename it to weights.pth" in reason(written(tmp_path / "weights.safetensors", form))


@pytest.mark.parametrize("form", PICKLED)
@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_the_weights_of_a_training_checkpoint_are_found(form: str, entry: str, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    state = {"optimizer": optimizer.state_dict(), "epoch": 3, "scaler": {"scale": 65536.0}}
    state["args"] = argparse.Namespace(lr=1e-4, output_dir="out", resume=None)
    assert_equal(OfficialFile(written(tmp_path / "raw.pth", form, {entry: weights(), **state})), weights())


def test_the_prefix_of_parallel_training_is_dropped(tmp_path: Path) -> None:
    content = {f"module.{name}": tensor for name, tensor in weights().items()}
    assert_equal(OfficialFile(written(tmp_path / "weights.pth", content=content)), weights())


def test_a_prefix_that_only_some_names_have_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth", content={"module.a": torch.ones(1), "b": torch.ones(1)})
    assert set(OfficialFile(path)) == {"module.a", "b"}


def test_parameters_come_as_plain_tensors(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth", content={"a": nn.Parameter(torch.ones(2))})
    assert type(OfficialFile(path)["a"]) is Tensor
    assert not OfficialFile(path)["a"].requires_grad


def test_an_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    file = OfficialFile(written(tmp_path / "weights.pth"))
    assert "layers.1.weight" not in file
    with pytest.raises(KeyError):
        file["layers.1.weight"]


# Lazily


def test_nothing_is_opened_before_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"nothing that could be opened")
    assert OfficialFile(tmp_path / "weights.pth").path == tmp_path / "weights.pth"


@pytest.mark.parametrize("form", FORMATS)
def test_shapes_and_types_stay_known_after_the_release(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth", form)
    file = OfficialFile(path)
    assert file.shapes["layers.0.weight"] == (7, 5)
    file.release()
    path.unlink()
    assert file.shapes == {name: tuple(tensor.shape) for name, tensor in weights().items()}
    assert file.dtypes == {name: tensor.dtype for name, tensor in weights().items()}
    assert "scale" in file


@pytest.mark.parametrize("form", FORMATS)
def test_after_the_release_it_is_opened_again(form: str, tmp_path: Path) -> None:
    file = OfficialFile(written(tmp_path / "weights.pth", form))
    kept = file["layers.0.bias"]
    file.release()
    assert_equal(file, weights())
    assert torch.equal(kept, weights()["layers.0.bias"])


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth")
    before = path.read_bytes()
    OfficialFile(path)["scale"].fill_(7)
    assert path.read_bytes() == before


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    file = OfficialFile(written(tmp_path / "weights.pth"))
    assert len(file) == 4
    file.release()
    written(tmp_path / "weights.pth", content={"scale": torch.ones(3)})
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        file["scale"]


def test_its_hash_goes_into_the_model_card_without_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = SourceFile(name="weights.pth", sha256=digest, bytes=path.stat().st_size, what="the weights")
    assert OfficialFile(path).sha256() == digest
    assert OfficialFile(path).source("the weights") == expected
    assert source_file(path, "the weights") == expected


# What is refused


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"imagebind_huge\.pth: no such file; expected"):
        OfficialFile(tmp_path / "imagebind_huge.pth")
    with pytest.raises(CheckpointError, match=r"params\.json: No such file"):
        source_file(tmp_path / "params.json", "sizes")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this is a folder; name the file in it"):
        OfficialFile(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth")
    path.chmod(0)
    assert "Permission denied" in reason(path)


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    assert "the file is empty" in reason(tmp_path / "weights.pth")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_file_says_so(form: str, share: float, tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth", form, {"weight": torch.arange(4000.0)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "it is truncated or damaged: download or copy it again" in reason(path)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4803584173\n"
FOREIGN = {
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "this is a web page"),
    "lfs": (LFS, "this is a Git LFS pointer, which only names the file: run 'git lfs pull'"),
    "jpeg": (jpeg(), "this is a JPEG image"),
    "tar": (tar(), "this is a tar archive"),
    "gzip": (gzip.compress(b"weights"), "this is a gzip archive"),
    "numpy": (array(), "this is a NumPy array"),
    "npz": (npz(), "this is a zip archive, but not one of PyTorch's"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "this is a GGUF file"),
    "text": (b"Access denied", "not a file of weights"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_content_is_named(kind: str, tmp_path: Path) -> None:
    content, expected = FOREIGN[kind]
    (tmp_path / "imagebind_huge.pth").write_bytes(content)
    assert expected in reason(tmp_path / "imagebind_huge.pth")


def test_a_database_is_named(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "weights.pth")
    connection.execute("create table a (b)")
    connection.close()
    assert "this is an SQLite database" in reason(tmp_path / "weights.pth")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(written(tmp_path / "weights.pth")) as whole,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert "its content is compressed" in reason(tmp_path / "packed.pth")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "there are no tensors in it"),
        ({"model": {}}, "there are no tensors in it"),
        (torch.ones(3), "it holds a Tensor; expected a state dict"),
        ([torch.ones(3)], "it holds a list; expected a state dict"),
        ({"weight": torch.ones(3), "epoch": 3}, "'epoch' is a int, not a tensor"),
        ({"model": {"weight": torch.ones(3), "layers": [1]}}, "'layers' is a list, not a tensor"),
        ({"generator": {"weight": torch.ones(3)}}, "alone or under 'model' or 'state_dict'"),
        ({0: torch.ones(3)}, "0 is no name of a tensor"),
    ],
)
def test_what_is_no_state_dict_is_named(content: Any, expected: str, tmp_path: Path) -> None:
    assert expected in reason(written(tmp_path / "weights.pth", content=content))


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (lambda: torch.eye(3).to_sparse(), "'weight' is a sparse tensor"),
        (lambda: torch.ones(3, device="meta"), "'weight' is a meta tensor"),
        (lambda: torch.ones(3, dtype=torch.complex64), "'weight' is stored as torch.complex64"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "'weight' is stored as torch.float8_e4m3fn"),
        (lambda: torch.ones(1).expand(1000), "'weight' is larger than its data in the file"),
    ],
)
def test_a_tensor_that_is_no_plain_weight_is_named(tensor: Callable[[], Tensor], expected: str, tmp_path: Path) -> None:
    assert expected in reason(written(tmp_path / "weights.pth", content={"weight": tensor()}))


# What is never executed


class Payload:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("form", PICKLED)
@pytest.mark.parametrize("entry", ["model", "args"])
def test_a_payload_does_not_run(form: str, entry: str, tmp_path: Path) -> None:
    path = written(tmp_path / "evil.pth", form, {"model": weights(), entry: Payload(tmp_path / "mark")})
    message = reason(path)
    assert "it asks for Python's 'posix.mkdir'; that was refused, and nothing was executed" in message
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_not_even_opened(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload(tmp_path / "mark"), protocol))
    assert "expected a PyTorch file of weights" in reason(tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()


def test_a_whole_pickled_model_is_refused_with_a_remedy(tmp_path: Path) -> None:
    message = reason(written(tmp_path / "weights.pth", content=nn.Linear(2, 2)))
    assert "it asks for Python's 'torch.nn.modules.linear.Linear'" in message
    assert "torch.save(model.state_dict(), …)" in message


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"weights/{name}", b"")
    assert "this is a TorchScript program" in reason(tmp_path / "weights.pt")


def test_of_all_settings_only_argparse_is_let_through(tmp_path: Path) -> None:
    content = {"model": weights(), "args": types.SimpleNamespace(lr=1e-4)}
    assert "it asks for Python's 'types.SimpleNamespace'" in reason(written(tmp_path / "weights.pth", content=content))


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(form: str, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.pth", form).read_bytes()
    chance, outcomes = random.Random(0), set()
    path = tmp_path / "damaged.pth"
    for attempt in range(300):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[chance.randrange(len(damaged)) :]
        for _ in range(attempt % 3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(type(sum(tensor.double().sum() for tensor in OfficialFile(path).values())))
        except CheckpointError as error:
            outcomes.add((CheckpointError, len(str(error).splitlines())))
    assert outcomes == {Tensor, (CheckpointError, 1)}
