"""The stages of a run, in the order of what they are worth."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from gpu.runner import Run, Stage, StageError, UnavailableError

CHECK = "specrt_cuda_check"
DEVICE_TESTS = "specrt_cuda_device_tests"
_SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
# Counts of things that never happen.
_LITMUS = ("mma.", "pdl.", "log.")

_NOT_EMULATED = "whole models are tested on the emulator by pytest itself"

# Options of specrt_cuda_check on the emulator: each part in a second or two.
_EMULATED = {
    "litmus": ("--count", "100"),
    "ceilings": ("--bytes", "2000000"),
    "steps": ("--shape", "tiny", "--rows", "1,9", "--contexts", "70"),
    "prefill": ("--shape", "tiny", "--contexts", "130"),
    "linear": ("--shape", "tiny", "--rows", "1,17,129"),
    "attention": ("--shape", "tiny", "--rows", "1,9", "--contexts", "70"),
    "judge": ("--shape", "tiny", "--rows", "1,3"),
    "gaps": ("--count", "10"),
    "streams": ("--shape", "tiny", "--contexts", "70"),
}


def site(run: Run) -> Path:
    """Folder that the package is installed into."""
    return run.build / "site"


def _environment(run: Run) -> dict[str, str]:
    return {
        "PYTHONPATH": str(site(run)),
        "SPECRT_TEST_BACKEND": "cuda",
        "XDG_CACHE_HOME": str(run.build / "cache"),
    }


def _program(run: Run, name: str) -> Path:
    places = (run.build / name, run.build / "cmake" / name)
    for place in places:
        if place.is_file():
            return place
    raise UnavailableError(f"there is no {name} in {run.build.name}; was it built?")


def _check(run: Run, part: str, *options: str) -> None:
    if run.emulated:
        options = (*_EMULATED[part], "--samples", "1")
    run.command([_program(run, CHECK), part, *options])


def _cmake(run: Run, targets: Sequence[str], **options: str) -> None:
    """Configures and builds; what an earlier stage has built is kept.

    What does not compile does not keep the rest from being built, for the stages that need only it.
    """
    for tool in ("nvcc", "cmake", "ninja"):
        run.tool(tool)
    folder = run.build / "cmake"
    definitions = {"SPECRT_BUILD_CUDA": "ON", "SPECRT_BUILD_CUDA_CHECKS": "ON", **options}
    words = [f"-D{name}={value}" for name, value in definitions.items()]
    run.command(["cmake", "-S", run.root, "-B", folder, "-G", "Ninja", *words])
    run.command(["cmake", "--build", folder, "--target", *targets, "--", "-k", "0"])


def build(run: Run) -> None:
    """Builds the CUDA library and the programs that the other stages run."""
    if run.emulated:
        _program(run, CHECK)
    else:
        _cmake(run, ["all"])


def install(run: Run) -> None:
    """Builds the extension, and puts the package together as an installation has it."""
    if run.emulated:
        raise UnavailableError(_NOT_EMULATED)
    if importlib.util.find_spec("nanobind") is None:
        raise UnavailableError("the Python package nanobind is not installed")
    targets = ["_core", "_core_stub", "specrt_cuda"]
    folder = site(run)
    shutil.rmtree(folder, ignore_errors=True)
    _cmake(run, targets, SPECRT_BUILD_PYTHON="ON", Python_EXECUTABLE=sys.executable)
    shutil.copytree(run.root / "python" / "specrt", folder / "specrt")
    run.command(["cmake", "--install", run.build / "cmake", "--prefix", folder])
    project = tomllib.loads((run.root / "pyproject.toml").read_text("utf-8"))["project"]
    metadata = folder / f"specrt-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: specrt\nVersion: {project['version']}\n")


def litmus(run: Run) -> None:
    """What the contracts take for granted of the hardware, above all of mma."""
    _check(run, "litmus")
    broken = [
        reading.name
        for reading in run.results.readings.values()
        if reading.name.startswith(_LITMUS) and reading.value != 0
    ]
    if broken:
        raise StageError(f"assumptions that do not hold: {', '.join(broken)}")


def kernel_tests(run: Run) -> None:
    """The C++ tests of kernels that make sense on a device."""
    run.command([_program(run, DEVICE_TESTS)])


def _need_installed(run: Run) -> None:
    if run.emulated:
        raise UnavailableError(_NOT_EMULATED)
    if not any(site(run).glob("*.dist-info")):
        raise UnavailableError("the package is not installed; did the stage install pass?")


def _pytest(run: Run, *tests: str) -> None:
    _need_installed(run)
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    run.command(words, _environment(run))


def op_tests(run: Run) -> None:
    """The Python tests of every op."""
    _pytest(run, "tests/ops", "tests/engine")


def end_to_end(run: Run) -> None:
    """Greedy and sampled identity between methods on the demo models."""
    _pytest(run, "tests/e2e/test_identity.py")


def cpu_against_cuda(run: Run) -> None:
    """Tokens and log-probabilities of the demo models on both backends."""
    _need_installed(run)
    script = run.root / "tools" / "gpu" / "cpu_against_cuda.py"
    run.command([sys.executable, script, run.build / "bundles"], _environment(run))


def ceilings(run: Run) -> None:
    """How fast memory can be copied and read."""
    _check(run, "ceilings")


def steps(run: Run) -> None:
    """Whole steps of Llama shapes with random weights, and a prompt of 1024 tokens."""
    for shape in ("8b", "1b"):
        _check(run, "steps", "--shape", shape)
        _check(run, "prefill", "--shape", shape)


def linears(run: Run) -> None:
    """Every matrix of the shapes alone, from memory."""
    for shape in ("8b", "1b", "7b"):
        _check(run, "linear", "--shape", shape, "--rows", "1,8,16,32,64,128,256")


def attentions(run: Run) -> None:
    """Attention over cached contexts."""
    for shape in ("8b", "7b"):
        _check(run, "attention", "--shape", shape, "--rows", "1,8,64", "--contexts", CONTEXTS)


CONTEXTS = "128,1024,8192,32768"


def gaps(run: Run) -> None:
    """What lies between kernels and between graphs."""
    _check(run, "gaps")


def judges(run: Run) -> None:
    """The judge by filter and rows."""
    _check(run, "judge", "--rows", "1,8,64")


def streams(run: Run) -> None:
    """Target and drafter on two streams, against each alone."""
    _check(run, "streams")


def sanitizer(run: Run) -> None:
    """compute-sanitizer over a step, a judge and the litmus tests of small shapes."""
    tool = run.tool("compute-sanitizer")
    program = str(_program(run, CHECK))
    found = []
    for name in _SANITIZER_TOOLS:
        for part in ("steps", "judge"):
            words = [tool, "--tool", name, "--error-exitcode", "1", program, part]
            try:
                run.command([*words, *_EMULATED[part], "--samples", "1"])
            except StageError as error:
                found.append(f"{name} of {part}: {error}")
    if found:
        raise StageError("; ".join(found))


def counters(run: Run) -> None:
    """Hardware counters of the matrix kernels, into the log."""
    words = [run.tool("ncu"), "--clock-control", "none", "--launch-count", "4"]
    words += ["--section", "SpeedOfLight", "--section", "MemoryWorkloadAnalysis"]
    words += ["--section", "Occupancy", "--section", "WarpStateStats"]
    run.command([*words, _program(run, CHECK), "linear", "--rows", "1", "--samples", "1"])


def peers(run: Run) -> None:
    """Hugging Face transformers on the same shapes: eager, and static cache with torch.compile."""
    script = run.root / "tools" / "gpu" / "peers.py"
    shapes = "tiny" if run.emulated else "1b,8b"
    run.command([sys.executable, script, "--shapes", shapes])


STAGES = (
    Stage("build", 150, "the CUDA library and the programs below", build),
    Stage("litmus", 25, "assumptions about mma, early starts, pinned memory", litmus),
    Stage("kernels", 40, "C++ tests of the kernels", kernel_tests),
    Stage("install", 60, "the Python package with both backends", install),
    Stage("ops", 60, "Python tests of the ops", op_tests),
    Stage("e2e", 60, "the same tokens with every method, demo models", end_to_end),
    Stage("logits", 40, "CPU against CUDA, demo models", cpu_against_cuda),
    Stage("ceilings", 20, "memory bandwidth", ceilings),
    Stage("steps", 60, "steps of 8B and 1B shapes", steps),
    Stage("linear", 30, "each matrix", linears),
    Stage("attention", 25, "attention by context", attentions),
    Stage("gaps", 10, "between kernels", gaps),
    Stage("judge", 15, "choosing tokens", judges),
    Stage("streams", 20, "two models at once", streams),
    Stage("sanitizer", 90, "compute-sanitizer", sanitizer),
    Stage("counters", 40, "hardware counters by ncu", counters),
)
PEERS = (Stage("peers", 540, "transformers on the same shapes", peers),)
