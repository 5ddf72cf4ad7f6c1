"""Engine files: bytes as cpp/engine/format.h has them, and damage that is found."""

import struct
import zlib

import pytest
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from specrt.build import BuildError, build
from specrt.build.engine_file import FORMAT_VERSION, read_header


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    model = write_tiny_llama(folder / "model", TinyLlama(head=Head.UNTIED, dtype="bf16"))
    return build(model, out=folder / "bundle", progress=False, tune=False) / "target.engine"


def copy(engine, folder, change):
    data = bytearray(engine.read_bytes())
    path = folder / "copy.engine"
    changed = change(data)
    path.write_bytes(data if changed is None else changed)
    return path


def test_header_fields(engine):
    data = engine.read_bytes()
    assert data[:8] == b"SPECRT\x1a\n"
    version, crc = struct.unpack_from("<II", data, 8)
    size, begin, meta = struct.unpack_from("<QQQ", data, 16)
    backend, layout, dtype, vocab, context = struct.unpack_from("<IIIii", data, 40)
    tensors, buffers, caches, ops = struct.unpack_from("<4I", data, 60)
    logits, head_begin, eos_count, *eos = struct.unpack_from("<iii16i", data, 76)
    assert (version, size, begin % 4096) == (FORMAT_VERSION, len(data), 0)
    assert (backend, layout, dtype, vocab, context) == (0, 1, 1, 277, 256)
    assert (tensors, caches, ops) == (3 + 3 * 6 + 1, 3, 2 + 3 * 8 + 2)
    assert (head_begin, eos_count, eos[:2], any(eos[2:])) == (ops - 2, 2, [3, 0], False)
    (text,) = struct.unpack_from("<Q", data, 152)
    assert text >= 4 * (vocab + 2)
    assert data[160:240] == bytes(80)
    assert crc == zlib.crc32(data[:12] + bytes(4) + data[16:begin])
    used = 240 + tensors * 40 + buffers * 16 + caches * 16 + ops * 64 + meta + text
    assert used <= begin < used + 4096
    assert data[used:begin] == bytes(begin - used)
    assert 0 <= logits < buffers


def test_tensor_records(engine):
    data = engine.read_bytes()
    begin, count = struct.unpack_from("<Q", data, 24)[0], struct.unpack_from("<I", data, 60)[0]
    end = begin
    for i in range(count):
        offset, size, *_ = struct.unpack_from("<QQIIii", data, 240 + 40 * i)
        assert offset % 64 == 0
        assert end <= offset < end + 64
        end = offset + size
    assert end == len(data)
    assert struct.unpack_from("<QQIIii", data, 240)[2:] == (1, 0, 277, 48)  # embed, row-major


def test_read_header_is_the_inverse(engine):
    header = read_header(engine)
    plan = header.plan
    assert (plan.backend, plan.dtype.value, plan.vocab, plan.eos) == ("cpu", "bf16", 277, (3, 0))
    assert len(header.meta["tensors"]) == len(plan.tensors)
    assert header.file_bytes == engine.stat().st_size
    last = plan.ops[-1]
    assert (last.kind, last.out, last.kv) == ("linear", plan.logits_buffer, -1)
    assert plan.ops[1].reals == (1.0, 0.0)
    attention = plan.ops[5]
    assert (attention.kind, attention.integers) == ("attention", (6, 0, 0, 0))
    assert attention.reals[0] == pytest.approx(10**-0.5)


@pytest.mark.parametrize("position", [13, 70, 240, 600, 1500, 3000])
def test_damaged_header_is_refused(engine, tmp_path, position):
    def flip(data):
        data[position] ^= 4

    with pytest.raises(BuildError, match="damaged"):
        read_header(copy(engine, tmp_path, flip))


@pytest.mark.parametrize("size", [0, 7, 239, 240, 4000, 4096, 20000])
def test_truncated_file_is_refused(engine, tmp_path, size):
    with pytest.raises(BuildError, match=r"cut short|not an engine"):
        read_header(copy(engine, tmp_path, lambda data: data[:size]))


def test_other_versions_are_refused(engine, tmp_path):
    def format_version(data):
        data[8] = 99

    def layout_version(data):
        data[44] = 9

    with pytest.raises(BuildError, match="format 99"):
        read_header(copy(engine, tmp_path, format_version))
    with pytest.raises(BuildError, match="layout version 9"):
        read_header(copy(engine, tmp_path, layout_version))


def test_unknown_codes_are_refused(engine, tmp_path):
    def unknown_dtype(data):
        data[48] = 7
        begin = struct.unpack_from("<Q", data, 24)[0]
        data[12:16] = bytes(4)
        data[12:16] = struct.pack("<I", zlib.crc32(data[:begin]))

    with pytest.raises(BuildError, match="does not know"):
        read_header(copy(engine, tmp_path, unknown_dtype))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BuildError, match=r"none\.engine"):
        read_header(tmp_path / "none.engine")
