"""What goes wrong with a GPU is one clear error, and another LLM works afterwards."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import specrt
from backends import BACKEND
from bundles import tiny_model
from emulator import (
    ILLEGAL_ADDRESS,
    NO_KERNEL_IMAGE,
    OUT_OF_MEMORY,
    Devices,
    Emulator,
    find_emulator,
)
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams
from specrt.build import build

PROMPT = [5, 6, 7] * 10


@pytest.fixture(scope="module")
def emulated() -> Emulator:
    found = find_emulator() if BACKEND == "cuda" else None
    if found is None:
        pytest.skip("only the emulator can be told to fail")
    return found


@pytest.fixture
def emulator(emulated: Emulator) -> Iterator[Emulator]:
    yield emulated
    emulated.reset()


def complete(llm: LLM) -> list[int]:
    params = SamplingParams(temperature=0.7, max_tokens=12, seed=3, ignore_eos=True)
    return llm.generate([PROMPT], params)[0].token_ids


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path, emulated: Emulator) -> list[int]:
    return complete(LLM(tiny_bundle, "speculative"))


def refusal(bundle: Path) -> str:
    """The error of one line that making an LLM gives."""
    with pytest.raises(specrt.Error) as caught:
        LLM(bundle, "speculative")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (Devices(count=0), "no CUDA device is visible; use a bundle built with --backend cpu, or"),
        (Devices(compute_major=8), r"device 0 is sm_80; specrt's kernels are for sm_90a \(Hopper"),
        (Devices(driver_version=0), "there is no NVIDIA driver; install it, or use a bundle"),
        (Devices(driver_version=12020), r"driver knows CUDA up to 12\.2, .* update the driver"),
    ],
)
def test_a_device_that_cannot_be_used(
    devices: Devices, message: str, tiny_bundle: Path, emulator: Emulator, expected: list[int]
) -> None:
    emulator.reset(devices)
    assert re.search(message, refusal(tiny_bundle))
    emulator.reset()
    assert complete(LLM(tiny_bundle, "speculative")) == expected


def test_a_library_for_other_gpus(
    tiny_bundle: Path, emulator: Emulator, expected: list[int]
) -> None:
    emulator.fail_call("cudaFuncGetAttributes", NO_KERNEL_IMAGE)
    assert "built for other GPUs: install it with CMAKE_CUDA_ARCHITECTURES" in refusal(tiny_bundle)
    assert complete(LLM(tiny_bundle, "speculative")) == expected


def test_out_of_device_memory_says_what_needs_how_much(
    tiny_bundle: Path, emulator: Emulator, expected: list[int]
) -> None:
    """Whatever it is that does not fit."""
    seen = set()
    size = 4096
    while True:
        emulator.reset(Devices(memory_bytes=size))
        try:
            llm = LLM(tiny_bundle, "speculative")
            break
        except specrt.Error as error:
            text = str(error)
        assert "\n" not in text
        assert re.search(r"the GPU cannot hold another \d+ bytes; \d+ of \d+ are free", text), text
        what = text.partition(": ")[0]
        seen.add(what)
        if what in ("weights", "KV cache"):
            needs = r"needs \d+ MB for weights, \d+ MB for the KV cache, \d+ MB for buffers; free "
            assert re.search(needs, text), text
        size += size // 12
    assert {"weights", "KV cache"} <= seen
    assert complete(llm) == expected


def test_a_kernel_that_fails(
    tiny_bundle: Path, emulator: Emulator, expected: list[int], tmp_path: Path
) -> None:
    """The process goes on without the GPU; only a restart, or here a reset, brings it back."""
    llm = LLM(tiny_bundle, "speculative")
    emulator.set_sticky_error(ILLEGAL_ADDRESS)
    for _ in range(2):
        with pytest.raises(specrt.Error, match=r"illegal memory access .* restart it"):
            complete(llm)
    assert refusal(tiny_bundle).endswith("the GPU does no more work for this process: restart it")
    folder = write_tiny_llama(tmp_path / "model", tiny_model())
    on_cpu = build(folder, out=tmp_path / "cpu", backend="cpu", progress=False, tune=False)
    assert len(complete(LLM(on_cpu))) == 12
    del llm
    emulator.reset()
    assert complete(LLM(tiny_bundle, "speculative")) == expected


@pytest.mark.parametrize("call", ["cudaLaunchKernelEx", "cudaGraphLaunch", "cudaEventRecord"])
def test_a_call_that_fails_once(
    call: str, tiny_bundle: Path, emulator: Emulator, expected: list[int]
) -> None:
    """Wherever it fails in a request, the same LLM serves the next one."""
    llm = LLM(tiny_bundle, "speculative")
    for after in (0, 1, 5):
        emulator.fail_call(call, OUT_OF_MEMORY, after)
        with pytest.raises(specrt.Error, match="CUDA: out of memory in "):
            complete(llm)
        assert complete(llm) == expected


def test_one_phase_of_pearl_alone_is_refused(tiny_bundle: Path, emulated: Emulator) -> None:
    with pytest.raises(ValueError, match="runs on CPU engines only, not on CUDA"):
        LLM(tiny_bundle, "pearl", phases="pre_verify_only")
