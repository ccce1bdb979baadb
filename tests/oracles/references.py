"""The reference functions of flash-attn, mamba-ssm and causal-conv1d, without their CUDA extensions if necessary.

These packages import their compiled extension at the top although their reference functions never call it. If it is
missing, an empty module stands in for it while the package is imported, and both are removed afterwards: transformers
looks for these packages when its Mamba, Jamba, Bamba … files are imported, and would otherwise bind kernels that do
not exist.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

EXTENSIONS = {
    "flash_attn": "flash_attn_2_cuda",
    "mamba_ssm": "selective_scan_cuda",
    "causal_conv1d": "causal_conv1d_cuda",
}


@cache
def reference(path: str) -> Callable[..., Any]:
    """The function at `path`, such as "flash_attn.utils.testing.attention_ref".

    Raises ImportError if the package is not installed.
    """
    module, _, name = path.rpartition(".")
    missing = [extension for extension in EXTENSIONS.values() if not _present(extension)]
    if not missing:
        return getattr(importlib.import_module(module), name)

    # transformers' files must not see the stand-ins, not even when these packages import them.
    if _present("transformers"):
        importlib.import_module("transformers.models.mamba.modeling_mamba")
        importlib.import_module("transformers.models.jamba.modeling_jamba")
    before = set(sys.modules)
    sys.modules.update({extension: types.ModuleType(extension) for extension in missing})
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        for loaded in set(sys.modules) - before:
            if loaded.partition(".")[0] in {*EXTENSIONS, *missing}:
                del sys.modules[loaded]


def _present(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None
