"""Safetensors of unknown origin: headers that lie are refused by name."""

import json

import numpy as np
import pytest
from reference.safetensors_file import write_safetensors
from specrt.build import BuildError
from specrt.build.safetensors_file import HEADER_LIMIT, read_tensor_table


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, shape=None, dtype="F32"):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_rows_of_a_sound_file(tmp_path):
    values = {"a": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.ones(5, np.float32)}
    write_safetensors(tmp_path / "x", values, "F32")
    table = read_tensor_table(tmp_path / "x")
    np.testing.assert_array_equal(table["a"].read_rows(1, 3), values["a"][1:3])
    np.testing.assert_array_equal(table["b"].read_rows(0, 1), values["b"][None])
    assert table["a"].shape == (4, 3)


HEADERS = {
    "outside": ({"a": entry(0, 16)}, b"x" * 8, "outside the file"),
    "backwards": ({"a": entry(8, 4, [1])}, b"x" * 8, "outside the file"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12, "overlaps"),
    "hole": ({"a": entry(0, 4), "b": entry(8, 12)}, b"x" * 12, "hole"),
    "tail": ({"a": entry(0, 4)}, b"x" * 8, "4 bytes behind"),
    "dtype": ({"a": entry(0, 4, [1], "F31")}, b"x" * 4, "'F31'"),
    "dtype_type": ({"a": entry(0, 4, [1], ["F32"])}, b"x" * 4, "unknown dtype"),
    "size": ({"a": entry(0, 4, [2])}, b"x" * 4, "does not fit"),
    "negative": ({"a": entry(-4, 4, [2])}, b"x" * 4, "invalid data_offsets"),
    "fraction": ({"a": entry(0, 4, [1.0])}, b"x" * 4, "invalid shape"),
    "huge": ({"a": entry(0, 4, [2**40, 2**40])}, b"x" * 4, "does not fit"),
    "boolean": ({"a": entry(False, 4, [1])}, b"x" * 4, "invalid data_offsets"),
    "no_shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"x" * 4, "no valid dtype"),
    "not_an_object": ({"a": 5}, b"", "no valid dtype"),
    "list": ([1], b"", "JSON object"),
    "twice": (b'{"a": 1, "a": 2}', b"", "twice"),
    "not_utf8": (b'{"\xff": 1}', b"", "not valid JSON"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_lying_header_is_refused(tmp_path, name):
    header, data, words = HEADERS[name]
    with pytest.raises(BuildError, match=words) as caught:
        read_tensor_table(write(tmp_path / "x.safetensors", header, data))
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [3, 2**40, 2**64 - 1, HEADER_LIMIT + 1])
def test_header_beyond_the_file_is_refused(tmp_path, length):
    with pytest.raises(BuildError, match="not a safetensors file"):
        read_tensor_table(write(tmp_path / "x", b"{}", length=length))


def test_empty_and_missing_files_are_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BuildError, match="not a safetensors file"):
        read_tensor_table(tmp_path / "empty")
    with pytest.raises(BuildError, match="cannot read"):
        read_tensor_table(tmp_path / "missing")


def test_file_that_shrinks_is_refused(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.ones((4, 4), np.float32)}, "F32")
    tensor = read_tensor_table(tmp_path / "x")["a"]
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-8])
    with pytest.raises(BuildError, match="cut short"):
        tensor.read_rows(0, 4)
