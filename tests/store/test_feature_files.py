"""Files of image features: read batch by batch, and hostile until checked."""

import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from ibllm_tools.errors import (
    AttachmentNotFoundError,
    CorruptMediaError,
    IbllmError,
    MissingExtraError,
    UnsupportedMediaError,
)
from ibllm_tools.store import feature_files
from ibllm_tools.store.feature_files import is_feature_file, open_features

Writer = Callable[[Path, np.ndarray], Path]


def rows(count: int = 10, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def write_npy(folder: Path, features: np.ndarray) -> Path:
    np.save(folder / "features.npy", features)
    return folder / "features.npy"


def write_safetensors(folder: Path, features: np.ndarray) -> Path:
    save_file({"anything": np.ascontiguousarray(features)}, folder / "features.safetensors")
    return folder / "features.safetensors"


def write_parquet(folder: Path, features: np.ndarray) -> Path:
    return write_table(folder, pa.array(list(features), pa.list_(pa.from_numpy_dtype(features.dtype))))


def write_fixed_parquet(folder: Path, features: np.ndarray) -> Path:
    values = pa.array(features.ravel())
    return write_table(folder, pa.FixedSizeListArray.from_arrays(values, features.shape[1]))


def write_table(folder: Path, column: pa.Array, name: str = "embedding") -> Path:
    parquet.write_table(pa.table({"title": ["x"] * len(column), name: column}), folder / "features.parquet")
    return folder / "features.parquet"


WRITERS = [write_npy, write_safetensors, write_parquet, write_fixed_parquet]


def read(path: Path) -> np.ndarray:
    return np.concatenate(list(open_features(path).batches()))


class TestGood:
    @pytest.mark.parametrize("write", WRITERS)
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_rows_come_as_float32(self, tmp_path: Path, write: Writer, dtype: type) -> None:
        features = rows().astype(dtype)
        path = write(tmp_path, features)
        assert (open_features(path).count, open_features(path).dimension) == (10, 6)
        np.testing.assert_array_equal(read(path), features.astype(np.float32))

    @pytest.mark.parametrize("write", WRITERS)
    def test_many_rows_come_in_batches(self, tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feature_files, "BATCH", 4)
        file = open_features(write(tmp_path, rows()))
        assert [len(batch) for batch in file.batches()] == [4, 4, 2]

    def test_an_array_in_fortran_order(self, tmp_path: Path) -> None:
        np.testing.assert_array_equal(read(write_npy(tmp_path, np.asfortranarray(rows()))), rows())

    def test_bfloat16_of_safetensors(self, tmp_path: Path) -> None:
        features = torch.from_numpy(rows()).bfloat16()
        save_tensors({"x": features}, tmp_path / "features.safetensors")
        np.testing.assert_array_equal(read(tmp_path / "features.safetensors"), features.float().numpy())

    def test_one_tensor_of_several_by_its_name(self, tmp_path: Path) -> None:
        save_file({"features": rows(), "other": rows(3, 3)}, tmp_path / "features.safetensors")
        np.testing.assert_array_equal(read(tmp_path / "features.safetensors"), rows())

    def test_the_ending_decides(self) -> None:
        assert is_feature_file("a/B.NPY")
        assert not is_feature_file("a.npy.png")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (sys.exit, ("a pickle was opened",))


class TestHostile:
    @pytest.mark.parametrize("write", WRITERS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_row_without_a_direction_is_named(self, tmp_path: Path, write: Writer, value: float) -> None:
        features = rows()
        features[7, 2] = value
        with pytest.raises(CorruptMediaError, match="row 7 is zero, undefined or infinite"):
            read(write(tmp_path, features))

    @pytest.mark.parametrize("write", WRITERS)
    def test_a_row_of_zeros_is_named(self, tmp_path: Path, write: Writer) -> None:
        features = rows()
        features[3] = 0
        with pytest.raises(CorruptMediaError, match="row 3"):
            read(write(tmp_path, features))

    def test_numbers_that_float32_cannot_hold(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptMediaError, match="row 0"):
            read(write_npy(tmp_path, np.full((2, 2), 1e300)))

    @pytest.mark.parametrize("write", WRITERS)
    def test_integers_are_no_features(self, tmp_path: Path, write: Writer) -> None:
        with pytest.raises(UnsupportedMediaError, match="floating point"):
            open_features(write(tmp_path, np.ones((3, 3), np.int64)))

    @pytest.mark.parametrize("shape", [(5,), (2, 2, 2), (0, 4), (4, 0)])
    def test_another_shape(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(UnsupportedMediaError, match="expected rows"):
            open_features(write_npy(tmp_path, np.ones(shape, np.float32)))

    def test_a_pickle_in_an_npy_is_never_opened(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([[Evil()]]), allow_pickle=True)
        with pytest.raises(IbllmError):
            read(tmp_path / "x.npy")

    @pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "x.parquet"])
    def test_a_pickle_by_another_name_is_never_opened(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CorruptMediaError, match="cannot be read"):
            open_features(tmp_path / name)

    @pytest.mark.parametrize("write", WRITERS)
    def test_a_cut_file(self, tmp_path: Path, write: Writer) -> None:
        path = write(tmp_path, rows(1000))
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(CorruptMediaError):
            read(path)

    def test_damage_behind_the_first_batch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feature_files, "BATCH", 500)
        path = tmp_path / "x.parquet"
        table = pa.table({"embedding": pa.array(list(rows(1000)), pa.list_(pa.float32()))})
        parquet.write_table(table, path, row_group_size=500, use_dictionary=False, compression="none")
        second = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
        content = bytearray(path.read_bytes())
        content[second : second + 16] = b"\xff" * 16
        path.write_bytes(content)
        batches = open_features(path).batches()
        assert len(next(batches)) == 500
        with pytest.raises(CorruptMediaError, match=r"x\.parquet: cannot be read"):
            next(batches)

    def test_a_head_that_announces_more_than_there_is(self, tmp_path: Path) -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1024)})
        (tmp_path / "x.npy").write_bytes(head.getvalue())
        with pytest.raises(CorruptMediaError, match="announces shape"):
            open_features(tmp_path / "x.npy")

    def test_rows_of_different_widths(self, tmp_path: Path) -> None:
        ragged = pa.array([[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]], pa.list_(pa.float32()))
        with pytest.raises(CorruptMediaError, match="different widths"):
            read(write_table(tmp_path, ragged))

    def test_rows_that_are_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptMediaError, match="missing"):
            read(write_table(tmp_path, pa.array([[1.0, 2.0], None], pa.list_(pa.float32()))))

    def test_a_table_without_features(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedMediaError, match=r"columns \['title', 'price'\]"):
            open_features(write_table(tmp_path, pa.array([1.0, 2.0]), name="price"))

    def test_a_column_of_plain_numbers(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedMediaError, match="column embedding of type double"):
            open_features(write_table(tmp_path, pa.array([1.0, 2.0])))

    def test_several_tensors_without_a_name_that_tells(self, tmp_path: Path) -> None:
        save_file({"a": rows(), "b": rows()}, tmp_path / "x.safetensors")
        with pytest.raises(UnsupportedMediaError, match="expected one"):
            open_features(tmp_path / "x.safetensors")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(AttachmentNotFoundError, match="no such file"):
            open_features(tmp_path / "x.npy")

    def test_another_ending(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedMediaError, match=r"expected \.npy, \.safetensors, \.parquet"):
            open_features(tmp_path / "x.csv")


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path, rows())
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ibllm-tools\[parquet\]'"):
        open_features(path)
