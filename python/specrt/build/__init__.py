"""The ahead-of-time builder: Hugging Face models to specrt bundles.

The package is callable: `specrt.build(model, out=...)` is `specrt.build.build(model, out=...)`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from specrt.build.builder import build
from specrt.build.errors import BuildError

__all__ = ["BuildError", "build"]


class _Package(ModuleType):
    __call__: Callable[..., Path] = staticmethod(build)


sys.modules[__name__].__class__ = _Package
