"""Too little memory is an error of one line that says how much was missing and what to do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import specrt
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt import LLM
from specrt.build import BuildError, build

pytestmark = pytest.mark.cpu_only("limits of the host's memory")

# Lowers the limit on the address space to `extra` bytes above what the process has, in many steps,
# and makes an LLM and generates under each. Whatever that gives, without the limit all is as ever.
PROGRAM = """
import json, os, resource, sys
from pathlib import Path
import specrt

bundle = sys.argv[1]
params = specrt.SamplingParams(temperature=0.7, top_p=0.9, max_tokens=12, seed=3, logprobs=3)

def complete(llm):
    return llm.generate([[5, 6, 7] * 40], params)[0].token_ids

expected = complete(specrt.LLM(bundle, threads=2))
outcomes = []

def limited(extra, call):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        return call()
    except (specrt.Error, MemoryError) as error:
        outcomes.append([type(error).__name__, str(error)])
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

def made(extra, threads):
    return limited(extra, lambda: specrt.LLM(bundle, threads=threads))

assert made(64 << 20, 400) is None  # stacks of 8 MB
for extra in range(0, 120 << 20, 3 << 20):
    llm = made(extra, 2)
    if llm is not None:
        tokens = limited(0, lambda: complete(llm))
        assert tokens in (None, expected), tokens
        assert complete(llm) == expected
    elif extra % (15 << 20) == 0:
        assert complete(specrt.LLM(bundle, threads=2)) == expected
print(json.dumps(outcomes))
"""


def test_a_limit_on_memory_gives_errors_that_say_what_to_do(demo_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(demo_bundle)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    outcomes = json.loads(done.stdout)
    assert outcomes[0][1].startswith("cannot start a thread (")
    texts = [text for kind, text in outcomes if kind == "Error"]
    for what in ("cannot map the ", "weights: cannot allocate ", "KV cache: cannot allocate "):
        assert any(what in text for text in texts), what
    for kind, text in outcomes:
        assert text
        assert "\n" not in text
        if kind == "Error" and "allocate" in text:
            assert " bytes" in text
            assert "free memory" in text


@pytest.fixture(scope="module")
def vast_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KV cache of 8 TB: 8 layers, 64 heads of 512, 4 million positions."""
    shape = TinyLlama(
        layers=8, hidden=8, ffn=8, heads=64, kv_heads=64, head_dim=512, context=1 << 22
    )
    return write_tiny_llama(tmp_path_factory.mktemp("vast"), shape)


def test_a_kv_cache_beyond_the_machine_is_refused(vast_model: Path, tmp_path: Path) -> None:
    bundle = build(vast_model, out=tmp_path / "bundle", progress=False, tune=False)
    with pytest.raises(specrt.Error) as caught:
        LLM(bundle)
    text = str(caught.value)
    assert re.match(r"KV cache: cannot allocate \d{13} bytes of memory; this machine has \d+", text)
    assert "--max-context" in text
    assert "\n" not in text


def test_a_bundle_that_this_machine_cannot_run(vast_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot run the bundle: KV .*--no-tune"):
        build(vast_model, out=tmp_path / "bundle", progress=False)
    assert not list(tmp_path.iterdir())
