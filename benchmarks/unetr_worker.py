# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One side of `unetr_vs_monai.py`: answers commands from its standard input.

unetr_worker.py KIND FOLDER SIDE THREADS

KIND is ours, monai_eager, monai_compile, or ours or monai_compile with
`_jemalloc`.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from allocator import restart
from worker import limit_threads, serve, timed

KIND, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
SIDE, THREADS = int(sys.argv[3]), int(sys.argv[4])
limit_threads(THREADS)

import numpy as np  # noqa: E402

CLASSES = 27
RATE = 1e-4
# MONAI's constants of both sides of the Dice fraction.
SMOOTH = 1e-5


def main() -> None:
  """Answers what it is asked."""
  ours = KIND.startswith("ours")
  restart(ours, jemalloc=KIND.endswith("_jemalloc"))
  serve(Ours() if ours else Monai(KIND != "monai_eager"))


def timed_in_a_row(run: Callable[[], Any]) -> tuple[float, float]:
  """Times the second of two calls.

  Memory that a process gave back while the others computed is taken anew by
  the first, and the host of a virtual machine may have to find it.
  """
  run()
  return timed(run)


def sample() -> tuple[np.ndarray, np.ndarray]:
  """An image of noise and labels in blobs; no sides' time depends on them."""
  random = np.random.default_rng(0)
  shape = (1, SIDE, SIDE, SIDE, 1)
  image = random.standard_normal(shape).astype(np.float32)
  coarse = random.integers(0, CLASSES, (1, *(SIDE // 8,) * 3))
  labels = np.kron(coarse, np.ones((1, 8, 8, 8), np.int32))
  return image, labels.astype(np.int32)


class Monai:
  """MONAI's UNETR in PyTorch.

  Args:
    compiled: by torch.compile.
  """

  def __init__(self, compiled: bool) -> None:
    import torch
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNETR

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    self._torch = torch
    self._net = UNETR(1, CLASSES, (SIDE,) * 3, feature_size=16)
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    image, labels = sample()
    self._image = torch.from_numpy(image).permute(0, 4, 1, 2, 3).contiguous()
    self._labels = torch.from_numpy(labels)[:, None].long()
    # One pass over the parameters: the fastest of torch's on CPU.
    self._optimizer = torch.optim.AdamW(
      self._net.parameters(), lr=RATE, weight_decay=1e-5, fused=True
    )
    self._forward = torch.compile(self._net) if compiled else self._net
    self._compute = lambda: loss(self._forward(self._image), self._labels)

  def prepare(self) -> dict:
    """Writes weights and logits, then warms up both programs."""
    if not (FOLDER / "weights.npz").exists():
      state = self._net.state_dict()
      np.savez(
        FOLDER / "weights.npz", **{k: v.numpy() for k, v in state.items()}
      )
    began = time.perf_counter()
    with self._torch.inference_mode():
      logits = self._forward(self._image).permute(0, 2, 3, 4, 1).numpy()
    np.save(FOLDER / f"{KIND}.npy", logits)
    self._loss = self._compute().item()
    self.forward()
    self.step()
    return {"seconds": time.perf_counter() - began}

  def loss(self) -> float:
    """The loss before the first step."""
    return self._loss

  def forward(self) -> tuple[float, float]:
    """Seconds of a forward pass without gradients."""

    def run():
      with self._torch.inference_mode():
        self._forward(self._image)

    return timed_in_a_row(run)

  def step(self) -> tuple[float, float]:
    """Seconds of a training step."""

    def run():
      self._optimizer.zero_grad(set_to_none=True)
      self._compute().backward()
      self._optimizer.step()

    return timed_in_a_row(run)


class Ours:
  """Our UNETR with the weights of MONAI's."""

  def __init__(self) -> None:
    import jax
    import jax.numpy as jnp
    import optax

    from vf_jax.models.baselines.monai_unetr import params_from_monai
    from vf_jax.models.baselines.unetr import Unetr

    model = Unetr(CLASSES, feature_size=16)
    image, labels = sample()
    self._image, self._labels = jnp.asarray(image), jnp.asarray(labels)
    with np.load(FOLDER / "weights.npz") as weights:
      params = params_from_monai(weights, model, image.shape)
    optimizer = optax.adamw(RATE, weight_decay=1e-5)
    self._state = params, optimizer.init(params)
    self._model = model

    def compute(params, image, labels):
      return dice_and_entropy(model.apply({"params": params}, image), labels)

    def step(state, image, labels):
      params, moments = state
      loss, grads = jax.value_and_grad(compute)(params, image, labels)
      updates, moments = optimizer.update(grads, moments, params)
      return (optax.apply_updates(params, updates), moments), loss

    self._forward = jax.jit(lambda p, x: model.apply({"params": p}, x))
    self._step = jax.jit(step, donate_argnums=0)
    self._wait = jax.block_until_ready
    self._parts: dict = {}

  def prepare(self) -> dict:
    """Writes the logits, warms up both programs."""
    began = time.perf_counter()
    logits = self._forward(self._state[0], self._image)
    np.save(FOLDER / f"{KIND}.npy", np.asarray(logits))
    self.forward()
    self._state, loss = self._step(self._state, self._image, self._labels)
    self._loss = float(loss)
    self.step()
    return {"seconds": time.perf_counter() - began}

  def loss(self) -> float:
    """The loss before the first step."""
    return self._loss

  def forward(self) -> tuple[float, float]:
    """Seconds of a forward pass without gradients."""
    return timed_in_a_row(
      lambda: self._wait(self._forward(self._state[0], self._image))
    )

  def step(self) -> tuple[float, float]:
    """Seconds of a training step."""

    def run():
      self._state, _ = self._wait(
        self._step(self._state, self._image, self._labels)
      )

    return timed_in_a_row(run)

  def matmul(self) -> tuple[float, float]:
    """Seconds of a matrix product of 2048^3, best of three."""
    import jax
    import jax.numpy as jnp

    if "matmul" not in self._parts:
      a = jax.random.normal(jax.random.key(0), (2048, 2048), jnp.float32)
      product = jax.jit(jnp.matmul)
      self._parts["matmul"] = lambda: self._wait(product(a, a))
      self._parts["matmul"]()
    return min(timed(self._parts["matmul"]) for _ in range(3))

  def parts(self) -> list[str]:
    """Names of what `part` can run."""
    return [
      f"{part}_{what}"
      for part in ("transformer", "decoder", "loss")
      for what in ("forward", "gradient")
    ] + ["optimizer_update"]

  def part(self, name: str) -> tuple[float, float]:
    """Seconds of one part alone, compiled on its own.

    `gradient` is the value with the gradients of parameters and inputs.
    """
    if name not in self._parts:
      self._parts[name] = self._make_part(*name.split("_"))
      self._parts[name]()
    return timed_in_a_row(self._parts[name])

  def _make_part(self, part: str, what: str):
    import jax
    import jax.numpy as jnp
    import optax

    from vf_jax.models.decoders.unetr import UnetrDecoder

    params = self._state[0]
    grid = (1, *(SIDE // 16,) * 3, self._model.dim)
    if part == "optimizer":
      optimizer = optax.adamw(RATE, weight_decay=1e-5)
      grads = jax.tree.map(jnp.ones_like, params)

      @functools.partial(jax.jit, donate_argnums=0)
      def update(state, grads):
        updates, moments = optimizer.update(grads, state[1], state[0])
        return optax.apply_updates(state[0], updates), moments

      def run():
        self._state = self._wait(update(self._state, grads))

      return run
    if part == "loss":
      shape = (1, SIDE, SIDE, SIDE, CLASSES)
      arguments = [jax.random.normal(jax.random.key(1), shape)]
      given = (self._labels,)
      function = dice_and_entropy
    elif part == "decoder":
      decoder = UnetrDecoder(CLASSES, 16)
      states = tuple(
        jax.random.normal(key, grid)
        for key in jax.random.split(jax.random.key(2), 4)
      )
      arguments = [params["decoder"], states]
      given = (self._image,)

      def function(params, states, image):
        return decoder.apply({"params": params}, image, states).logits

    else:
      arguments = [{k: v for k, v in params.items() if k != "decoder"}]
      given = (self._image,)
      function = functools.partial(_transformer, self._model)
    if what == "gradient":
      function = jax.grad(
        lambda *a, forward=function: forward(*a).sum(),
        argnums=tuple(range(len(arguments))),
      )
    # Nothing may be a constant: XLA would compute with it while it compiles.
    program = jax.jit(function)
    return lambda: self._wait(program(*arguments, *given))


def _transformer(model, params, image):
  """The sum of the states that the decoder would see."""
  import flax.linen as nn

  from vf_jax.models.decoders.unetr import Decoded, UnetrDecoder

  def without_decoder(call, arguments, named, context):
    if isinstance(context.module, UnetrDecoder):
      total = sum(arguments[1])
      return Decoded(total, (), total)
    return call(*arguments, **named)

  with nn.intercept_methods(without_decoder):
    return model.apply({"params": params}, image)


def dice_and_entropy(logits, labels):
  """MONAI's DiceCELoss(softmax=True, to_onehot_y=True).

  Args:
    logits: (batch, depth, height, width, class).
    labels: (batch, depth, height, width), integers.

  Returns:
    Mean over samples and classes of the Dice loss, plus cross-entropy.
  """
  import jax
  import jax.numpy as jnp

  logs = jax.nn.log_softmax(logits)
  probability = jnp.exp(logs)
  truth = jax.nn.one_hot(labels, CLASSES)
  axes = (1, 2, 3)
  both = (probability * truth).sum(axes)
  size = probability.sum(axes) + truth.sum(axes)
  dice = 1 - (2 * both + SMOOTH) / (size + SMOOTH)
  return dice.mean() - (logs * truth).sum(-1).mean()


if __name__ == "__main__":
  main()
