"""Bundles: what is in them, how they appear and are replaced, and the command line."""

import errno
import inspect
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from fnmatch import fnmatch

import huggingface_hub
import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import BuildError, build, builder
from specrt.build.bundle import read_manifest, verify
from specrt.build.command import main
from specrt.build.files import file_sha256


@pytest.fixture
def model(tmp_path):
    return write_tiny_llama(tmp_path / "model", TinyLlama(layers=1))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "bundle"


def built(model, out, **options):
    return build(model, out=out, progress=False, tune=False, **options)


def siblings(out):
    return sorted(path.name for path in out.parent.iterdir())


def test_files_and_manifest(model, out):
    draft = write_tiny_llama(model.parent / "draft", TinyLlama(layers=1, hidden=20, seed=2))
    bundle = built(model, out, draft=draft, dtype="bf16", max_context=100)
    files = sorted(str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file())
    engines = ["drafters/draft.engine", "target.engine"]
    assert files == sorted([*engines, "manifest.json", "tokenizer.json", "tokenizer_config.json"])
    assert (bundle / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    manifest = verify(bundle)
    assert (manifest["format"], manifest["format_version"]) == ("specrt-bundle", 1)
    assert (manifest["vocab"], manifest["context"], manifest["dtype"]) == (277, 100, "bf16")
    assert (manifest["backend"], manifest["curves"]) == ("cpu", None)
    [drafter] = manifest["drafters"]
    assert (drafter["name"], drafter["method"]) == ("draft", "speculative")
    assert drafter["sha256"] == file_sha256(bundle / "drafters" / "draft.engine")
    sources = manifest["target"]["source"]["sha256"]
    assert sources["model.safetensors"] == file_sha256(model / "model.safetensors")
    assert sources["config.json"] == file_sha256(model / "config.json")
    assert siblings(out) == ["bundle"]


def test_command_in_the_manifest_builds_the_same(model, out, capsys):
    bundle = built(model, out, dtype="bf16", max_context=64)
    before = read_manifest(bundle)
    words = before["command"].split()
    assert words[:2] == ["specrt", "build"]
    assert main([*words[2:], "--no-tune"]) == 0
    assert read_manifest(bundle) == before
    printed = capsys.readouterr()
    assert "target.engine: bf16" in printed.out
    assert not printed.err  # no progress bar where stderr is not a terminal


def test_command_line_reports_errors(model, out, capsys):
    assert main([str(model / "none"), "-o", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: there is no folder")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "example:" in capsys.readouterr().out


def test_hub_model_is_downloaded(model, out, monkeypatch):
    known = inspect.signature(huggingface_hub.snapshot_download).parameters
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = verify(built("somebody/some-model", out))["target"]["source"]
    assert (asked.pop("name"), source["model"]) == ("somebody/some-model", "somebody/some-model")
    assert source["revision"] == model.name  # the cache names snapshots by commit
    assert asked.keys() <= known.keys()
    patterns = asked["allow_patterns"]
    wanted = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"]
    assert all(any(fnmatch(file, p) for p in patterns) for file in wanted)
    unwanted = ["pytorch_model.bin", "original/consolidated.safetensors", "modeling_x.py"]
    assert not any(fnmatch(file, p) for p in patterns for file in unwanted)


def test_chat_template_file_is_merged(model, out):
    (model / "chat_template.jinja").write_text("{{ messages }} ä", encoding="utf-8")
    bundle = built(model, out)
    settings = json.loads((bundle / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["chat_template"] == "{{ messages }} ä"
    assert settings["eos_token"] == "<|end|>"


def test_default_of_several_chat_templates(model, out):
    path = model / "tokenizer_config.json"
    named = [{"name": "tools", "template": "a"}, 5, {"name": "default", "template": "b"}]
    path.write_text(json.dumps({"chat_template": named}))
    bundle = built(model, out)
    assert json.loads((bundle / "tokenizer_config.json").read_text())["chat_template"] == "b"


def test_bundle_is_replaced(model, out):
    built(model, out, dtype="f32")
    bundle = built(model, out, dtype="bf16")
    assert verify(bundle)["dtype"] == "bf16"
    assert siblings(out) == ["bundle"]


def test_foreign_outputs_are_refused(model, out):
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(BuildError, match="not a specrt bundle"):
        built(model, out)
    (out / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(BuildError, match="not a specrt bundle"):
        built(model, out)
    assert (out / "thesis.tex").read_text() == "mine"
    with pytest.raises(BuildError, match="not a specrt bundle"):
        built(model, model)
    with pytest.raises(BuildError, match="not a specrt bundle"):
        built(model, model / "config.json")


def test_empty_folder_is_a_place(model, out):
    out.mkdir(parents=True)
    assert built(model, out) == out


def test_failure_keeps_the_old_bundle(model, out, monkeypatch):
    before = verify(built(model, out))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builder, "write_engine", full)
    with pytest.raises(BuildError, match="No space left"):
        built(model, out, dtype="bf16")
    assert verify(out) == before
    assert siblings(out) == ["bundle"]


def test_interruption_leaves_nothing(model, out, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "write_engine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        built(model, out)
    assert siblings(out) == []


@contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_that_fails_midway_leaves_nothing(model, out):
    with file_size_limit(60000), pytest.raises(BuildError, match="cannot write"):
        built(model, out)
    assert siblings(out) == []


def test_full_disk_is_seen_before_writing(model, out, monkeypatch):
    usage = shutil.disk_usage(model)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BuildError, match="only 1000 are free"):
        built(model, out)
    assert siblings(out) == []


def test_unwritable_place_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot write"):
        built(model, tmp_path / "file" / "bundle")


KILLED = """
import os, signal, sys
from specrt.build import build, builder
from specrt.build.convert import tensor_chunks

def killing(checkpoint, tensor):
    if tensor.name == "final_norm":
        os.kill(os.getpid(), signal.SIGKILL)
    return tensor_chunks(checkpoint, tensor)

builder.tensor_chunks = killing
build(sys.argv[1], out=sys.argv[2], progress=False, tune=False)
"""


def test_killed_build_leaves_nothing_that_loads(model, out):
    done = subprocess.run([sys.executable, "-c", KILLED, model, out], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    [partial] = out.parent.iterdir()
    with pytest.raises(BuildError, match="not a specrt bundle"):
        read_manifest(partial)
    assert (partial / "target.engine").exists()
    built(model, out)
    assert siblings(out) == ["bundle"]


def test_build_in_progress_is_left_alone(model, out, monkeypatch):
    write = builder.write_engine

    def build_another(*args):
        monkeypatch.setattr(builder, "write_engine", write)
        built(model, out, dtype="bf16")
        return write(*args)

    monkeypatch.setattr(builder, "write_engine", build_another)
    assert verify(built(model, out, dtype="f32"))["dtype"] == "f32"
    assert siblings(out) == ["bundle"]


def test_verify_finds_changed_engines(model, out):
    bundle = built(model, out)
    engine = bundle / "target.engine"
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(data)
    with pytest.raises(BuildError, match="specrt build"):
        verify(bundle)
    engine.unlink()
    with pytest.raises(BuildError, match=r"target\.engine"):
        verify(bundle)


def test_verify_stays_in_the_bundle(model, out):
    bundle = built(model, out)
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["target"]["file"] = "../../model/config.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(BuildError, match="outside the bundle"):
        verify(bundle)
    path.write_text(json.dumps({"format": "specrt-bundle", "format_version": 1}))
    with pytest.raises(BuildError, match="lacks 'target'"):
        verify(bundle)
    path.write_text(json.dumps({"format": "specrt-bundle", "format_version": 9}))
    with pytest.raises(BuildError, match="format 9"):
        verify(bundle)
