"""Which backend the tests run on: SPECRT_TEST_BACKEND is "cpu", the default, or "cuda".

CUDA means the library that SPECRT_CUDA_LIBRARY names, which may run kernels on the SIMT emulator
(cuda/emulation): its cases are therefore small and few.
"""

import os
from typing import TypeVar

BACKENDS = ("cpu", "cuda")
BACKEND = os.environ.get("SPECRT_TEST_BACKEND", "cpu")
if BACKEND not in BACKENDS:
    raise ValueError(f"SPECRT_TEST_BACKEND={BACKEND!r} is not one of {', '.join(BACKENDS)}")

T = TypeVar("T")


def by_backend(*, cpu: T, cuda: T) -> T:
    """What belongs to the backend that the tests run on."""
    return cuda if BACKEND == "cuda" else cpu
