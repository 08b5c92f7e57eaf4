# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Settings of every test, made before JAX starts."""

from __future__ import annotations

import atexit
import os
import pathlib
import runpy
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# A thread that waits for the others of a collective is lost to the pool, which
# has one a core: with eight devices on two cores all of them would wait.
os.environ["NPROC"] = "32"
# Most of the time is spent compiling programs that run once; LLVM makes them as
# they come. XLA's own passes are those of production.
os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
)
os.environ["VF_JAX_CACHE"] = ""  # no test leaves programs with the user
# What one test compiled others need not, nor the processes that they start.
# NOTE: JAX does not write programs at one stroke, so no two workers share;
# what a killed process left half written is a warning, and compiled again.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="vf_jax_")

from jaxtyping import install_import_hook

# Annotations are enforced in tests only; production pays nothing.
install_import_hook("vf_jax", "beartype.beartype")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from vf_jax.config import Config, from_config_dict  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
from absl import flags  # noqa: E402

if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()
atexit.register(
  shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
hypothesis.settings.register_profile(
  "vf", deadline=None, max_examples=25, derandomize=True
)
hypothesis.settings.load_profile("vf")


def load_tiny(variant: str = "") -> ConfigDict:
  """What configs/tiny.py gives."""
  path = ROOT / "configs" / "tiny.py"
  return runpy.run_path(str(path))["get_config"](variant)


@pytest.fixture(scope="session")
def tiny():
  """Loader of configs/tiny.py: variant -> ConfigDict."""
  return load_tiny


@pytest.fixture(scope="session")
def test_config() -> Config:
  """The small variant of configs/tiny.py."""
  return from_config_dict(load_tiny("test"))


# Folders whose tests compile and train.
_LONG = {"train", "parallel", "models"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Begins with what takes longest, so that no worker ends with it alone."""
  first = {i.path for i in items if i.get_closest_marker("multiprocess")}

  def rank(item: pytest.Item) -> int:
    if item.path in first:
      return 0
    return 1 if _LONG.intersection(item.path.parts) else 2

  items.sort(key=rank)
