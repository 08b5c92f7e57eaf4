# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Attention on a mesh: a kernel runs on each device's own heads and queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vf_jax.ops.attention import ATTENDED, attention
from vf_jax.ops.gpu_attention import gpu_attention, why_not
from vf_jax.ops.tpu_attention import tpu_attention
from vf_jax.parallel.sharding import divide

Implementation = Literal["auto", "xla", "cudnn", "gpu", "tpu"]


def attend(
  query: Float[Array, "batch tokens heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
  implementation: Implementation,
) -> Float[Array, "batch tokens heads dim"]:
  """Attention of every token over every other.

  XLA divides its own operations over a mesh but no kernel, so the kernels for
  GPUs and TPUs are divided here: samples and heads as elsewhere, queries over
  `context`, whose devices each see all keys.

  Args:
    query: queries.
    key: keys.
    value: values.
    implementation: 'auto' takes the kernel for TPUs, that for GPUs where it
      runs and bfloat16 is computed in, and 'xla' elsewhere; the others are as
      in `ModelConfig`.

  Returns:
    The attended values; for `jax.checkpoint` they have the name `ATTENDED`.

  Raises:
    ValueError: if the implementation does not exist on this backend.
  """
  chosen = _choose(implementation, query.shape[-1], query.dtype)
  if chosen == "gpu":
    # It names what its backward pass needs, too.
    return over_mesh(gpu_attention, query, key, value)
  if chosen == "tpu":
    out = over_mesh(tpu_attention, query, key, value)
  else:
    out = attention(query, key, value, implementation=chosen)
  return checkpoint_name(out, ATTENDED)


def _choose(
  implementation: Implementation, dim: int, dtype: jnp.dtype
) -> Literal["xla", "cudnn", "gpu", "tpu"]:
  backend = jax.default_backend()
  if implementation == "auto":
    if backend == "tpu":
      return "tpu"
    fast = backend == "gpu" and dtype == jnp.bfloat16
    return "gpu" if fast and not why_not(dim, dtype) else "xla"
  if implementation in ("gpu", "tpu") and implementation != backend:
    raise ValueError(
      f"attention implementation '{implementation}' needs a "
      f"{implementation.upper()}, this is '{backend}'; set "
      "model.attention='auto'"
    )
  if implementation == "gpu" and (reason := why_not(dim, dtype)):
    raise ValueError(
      f"attention implementation 'gpu' does not run here: {reason}; set "
      "model.attention='auto'"
    )
  return implementation


def over_mesh(
  function: Callable[..., Array],
  query: Float[Array, "batch queries heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
) -> Float[Array, "batch queries heads dim"]:
  """Runs a function of queries, keys and values on every device's share.

  Args:
    function: what each device does.
    query: queries.
    key: keys.
    value: values.

  Returns:
    What `function` returns, shaped as the queries.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return function(query, key, value)
  share = divide(mesh, query.shape, ("batch", "tokens", "heads", None))
  whole = P(share[0], None, share[2], None)
  return jax.shard_map(
    function,
    in_specs=(share, whole, whole),
    out_specs=share,
    # A kernel says nothing of what varies over the mesh.
    check_vma=False,
  )(query, key, value)
