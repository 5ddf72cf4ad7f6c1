"""Compiles the kernels once, with PyTorch's own build of extensions, and keeps them in its cache.

`TORCH_EXTENSIONS_DIR` moves that cache. The CUDA kernels are compiled where PyTorch has CUDA.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch.utils import cpp_extension

_FOLDER = Path(__file__).parent
_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-march=native", "-fno-math-errno"]
_CUDA_FLAGS = ["-O3", "-std=c++20"]


@cache
def load_library() -> ModuleType:
    """The compiled kernels, whose operators are then registered.

    Raises:
        RuntimeError: there is no compiler or no ninja, or compiling failed.
    """
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise RuntimeError(
            f"specrt.torch_ops needs a C++ compiler, and {compiler!r} is none here: install g++, "
            "or set CXX"
        )
    if not cpp_extension.is_ninja_available():
        raise RuntimeError("specrt.torch_ops needs ninja: pip install 'specrt[torch-ops]'")
    sources = [_FOLDER / "stream_attention.cpp"]
    if torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None:
        sources.append(_FOLDER / "stream_attention.cu")
    library: ModuleType = cpp_extension.load(
        name="specrt_torch_ops",
        sources=[str(one) for one in sources],
        extra_cflags=_FLAGS,
        extra_cuda_cflags=_CUDA_FLAGS,
        extra_ldflags=["-fopenmp"],
    )
    return library
