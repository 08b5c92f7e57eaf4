# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""VertebraFormer in JAX/Flax for vertebra analysis in spinal CT.

    predictor = vf_jax.load()
    result = predictor("scan_ct.nii.gz")

What is listed in `__all__` is loaded when it is first used: `import vf_jax`
itself loads neither JAX nor NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vf_jax.errors import InputError
  from vf_jax.infer.predictor import Predictor, load
  from vf_jax.infer.result import CaseResult, Lesion, Vertebra
  from vf_jax.io.ct import InputOptions, read_ct
  from vf_jax.volume import Volume

__version__ = "0.1.0"

_HOME = {
  "CaseResult": "vf_jax.infer.result",
  "InputError": "vf_jax.errors",
  "InputOptions": "vf_jax.io.ct",
  "Lesion": "vf_jax.infer.result",
  "Predictor": "vf_jax.infer.predictor",
  "Vertebra": "vf_jax.infer.result",
  "Volume": "vf_jax.volume",
  "load": "vf_jax.infer.predictor",
  "read_ct": "vf_jax.io.ct",
}

__all__ = [
  "CaseResult",
  "InputError",
  "InputOptions",
  "Lesion",
  "Predictor",
  "Vertebra",
  "Volume",
  "__version__",
  "load",
  "read_ct",
]


def __getattr__(name: str) -> Any:
  """Loads a public name when it is first asked for."""
  if name not in _HOME:
    raise AttributeError(f"module 'vf_jax' has no attribute {name!r}")
  value = getattr(importlib.import_module(_HOME[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
