# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Environments of processes that meet, or must not, over localhost."""

from __future__ import annotations

import os
import socket


def alone() -> dict[str, str]:
  """The environment without any cluster that the tests run in."""
  return {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("SLURM_", "OMPI_", "KUBERNETES_"))
  }


def cluster(count: int) -> list[dict[str, str]]:
  """The variables by which each of some processes finds the others."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  return [
    {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(number),
    }
    for number in range(count)
  ]
