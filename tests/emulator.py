"""Controls of the emulated devices, where SPECRT_CUDA_LIBRARY names the backend on the emulator."""

import ctypes
import os
from dataclasses import dataclass

# Codes of cudaError_t.
OUT_OF_MEMORY = 2
NO_KERNEL_IMAGE = 209
ILLEGAL_ADDRESS = 700


@dataclass(frozen=True)
class Devices:
    """What the machine has."""

    count: int = 1
    compute_major: int = 9
    driver_version: int = 13000
    memory_bytes: int = 4 << 30


class Emulator:
    """The emulator inside of the library that this process has opened, or opens now."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def reset(self, devices: Devices | None = None) -> None:
        """Waits for all work, forgets errors and begins again with these devices."""
        has = devices or Devices()
        self._library.specrt_emulation_reset(
            has.count, has.compute_major, has.driver_version, ctypes.c_size_t(has.memory_bytes)
        )

    def fail_call(self, name: str, error: int, after: int = 0) -> None:
        """The call of the API function after the next `after` ones gives the error."""
        self._library.specrt_emulation_fail_call(name.encode(), error, after)

    def set_sticky_error(self, error: int) -> None:
        """As if a kernel had failed: every call gives the error until reset()."""
        self._library.specrt_emulation_set_sticky_error(error)


def find_emulator() -> Emulator | None:
    """The emulator, unless the library of the backend under test is for GPUs."""
    path = os.environ.get("SPECRT_CUDA_LIBRARY")
    if path is None:
        return None
    library = ctypes.CDLL(path)
    return Emulator(library) if hasattr(library, "specrt_emulation_reset") else None
