# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One loss a task, and their weighted sum.

A missing annotation is not a zero: every term is masked by what the sample's
source annotates. All terms are fp32.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from vf_jax.config import LossConfig
from vf_jax.labels import IGNORE, VERTEBRAE
from vf_jax.model_config import STEM_STRIDE
from vf_jax.models.decoders.lesion import LesionMaps
from vf_jax.models.modulation import mixture_entropy
from vf_jax.models.vertebraformer import Masks, Outputs
from vf_jax.ops.lookup import lookup

_DEEP = 0.75  # of the radius of a lesion
_CLASS_OF_CODE = np.zeros(1 + max(level.code for level in VERTEBRAE), np.int32)
_CLASS_OF_CODE[[level.code for level in VERTEBRAE]] = 1 + np.arange(
  len(VERTEBRAE)
)


@flax.struct.dataclass
class Batch:
  """Crops and what is known of them; spatial order (depth, height, width).

  Attributes:
    image: HU.
    labels: VerSe codes, 0 background, `IGNORE` unknown.
    spacing_mm: spacing of the scan before resampling, ascending, mm.
    centres: body centre of each VerSe code, in voxels of the crop.
    has_centre: whether that code has a centre.
    points: detections to be numbered, head to foot, in voxels.
    point_levels: index into `labels.VERTEBRAE`, -1 = false detection.
    point_mask: True for real slots.
    chain_fits: whether the levels of the points follow each other closely
      enough for the chain.
    boxes: lesion centre (voxels; outside the crop if its border cuts the
      lesion) and edge lengths (mm).
    box_mask: True for real slots.
    domain: index of the source's domain.
    has_masks: whether vertebra masks are annotated.
    has_levels: whether levels are annotated.
    has_lesions: whether lesions are annotated.
    case: index of the case in the store.
  """

  image: Float[Array, "batch depth height width"]
  labels: UInt8[Array, "batch depth height width"]
  spacing_mm: Float[Array, "batch 3"]
  centres: Float[Array, "batch codes 3"]
  has_centre: Bool[Array, "batch codes"]
  points: Float[Array, "batch points 3"]
  point_levels: Int[Array, "batch points"]
  point_mask: Bool[Array, "batch points"]
  chain_fits: Bool[Array, " batch"]
  boxes: Float[Array, "batch boxes 6"]
  box_mask: Bool[Array, "batch boxes"]
  domain: Int[Array, " batch"]
  has_masks: Bool[Array, " batch"]
  has_levels: Bool[Array, " batch"]
  has_lesions: Bool[Array, " batch"]
  case: Int[Array, " batch"]


Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""Metric name -> (numerator, denominator); merged on the host."""

Term = tuple[Float[Array, ""], Float[Array, ""]]
"""Loss of a task, and 1 if the batch tells anything of it; else both are 0."""


def _mean(total: Array, count: Array) -> Term:
  return total / jnp.maximum(count, 1), (count > 0).astype(jnp.float32)


def soft_dice(
  probability: Float[Array, "*shape"],
  truth: Float[Array, "*shape"],
  valid: Float[Array, "*shape"],
  smooth: float = 1.0,
) -> Float[Array, ""]:
  """1 - (2 I + s) / (P + T + s) over all valid voxels of the batch.

  Args:
    probability: 0..1.
    truth: 0 or 1.
    valid: 1 where the voxel counts.
    smooth: keeps a batch without foreground finite.

  Returns:
    The loss, 0 at perfect overlap.

  Source:
    Milletari et al. 2016, V-Net, with plain cardinalities.
  """
  both = (probability * truth * valid).sum()
  size = (probability * valid).sum() + (truth * valid).sum()
  return 1.0 - (2.0 * both + smooth) / (size + smooth)


def segmentation_terms(
  masks: Masks, labels: UInt8[Array, "batch depth height width"], batch: Batch
) -> tuple[Term, Term, Sums]:
  """Dice and cross-entropy of vertebrae, or of every level.

  Args:
    masks: what the network says.
    labels: VerSe codes at its resolution.
    batch: the crops.

  Returns:
    Dice loss, cross-entropy, and the sums for the training Dice (of vertebra
    against everything else in both cases).
  """
  truth = ((labels > 0) & (labels != IGNORE)).astype(jnp.float32)
  valid = (labels != IGNORE) & batch.has_masks[:, None, None, None]
  found = ((masks.logits > 0) & valid).astype(jnp.float32)
  valid = valid.astype(jnp.float32)
  sums = {
    "dice": (
      2.0 * (found * truth).sum(),
      found.sum() + (truth * valid).sum(),
    )
  }
  if masks.levels is not None:
    named = valid * batch.has_levels[:, None, None, None]
    code = jnp.where(labels == IGNORE, 0, labels).astype(jnp.int32)
    table = jnp.broadcast_to(
      _CLASS_OF_CODE[:, None], (len(code), len(_CLASS_OF_CODE), 1)
    )
    classes = lookup(table, code)[..., 0]
    return *level_terms(masks.levels, classes, named), sums
  entropy = optax.sigmoid_binary_cross_entropy(masks.logits, truth) * valid
  entropy, told = _mean(entropy.sum(), valid.sum())
  dice = soft_dice(jax.nn.sigmoid(masks.logits), truth, valid)
  return (jnp.where(told > 0, dice, 0.0), told), (entropy, told), sums


def level_terms(
  logits: Float[Array, "batch depth height width classes"],
  classes: Int[Array, "batch depth height width"],
  valid: Float[Array, "batch depth height width"],
) -> tuple[Term, Term]:
  """Dice over the levels that the batch shows, and cross-entropy over all.

  Args:
    logits: of background and every level.
    classes: the true ones.
    valid: 1 where the voxel counts.

  Returns:
    Mean Dice loss of the shown levels, and mean cross-entropy.
  """
  truth = jax.nn.one_hot(classes, logits.shape[-1])
  # By products, not by the class of each voxel: no gather (`ops/lookup`).
  entropy = valid * optax.softmax_cross_entropy(logits, truth)
  share = jax.nn.softmax(logits) * valid[..., None]
  truth = truth * valid[..., None]
  space = (0, 1, 2, 3)
  both, size = (share * truth).sum(space), (share + truth).sum(space)
  dice = 1.0 - (2.0 * both + 1.0) / (size + 1.0)
  shown = (truth.sum(space) > 0).astype(jnp.float32).at[0].set(0.0)
  return (
    _mean((dice * shown).sum(), shown.sum()),
    _mean(entropy.sum(), valid.sum()),
  )


def supervised_terms(outputs: Outputs, batch: Batch) -> tuple[Term, Term, Sums]:
  """Dice and cross-entropy at every resolution that is supervised.

  Args:
    outputs: of one forward pass.
    batch: the crops.

  Returns:
    As `segmentation_terms`; a halved resolution weighs half, and the weights
    add up to 1.

  Source:
    Isensee et al. 2021, nnU-Net, deep supervision.
  """
  fine = segmentation_terms(outputs, batch.labels, batch)
  (dice, dice_told), (entropy, entropy_told), sums = fine
  total = 1.0
  for power, masks in enumerate(outputs.coarse, start=1):
    step = 2**power
    middle = slice(step // 2, None, step)
    labels = batch.labels[:, middle, middle, middle]
    coarse_dice, coarse_entropy, _ = segmentation_terms(masks, labels, batch)
    dice = dice + coarse_dice[0] / step
    entropy = entropy + coarse_entropy[0] / step
    total += 1 / step
  return (dice / total, dice_told), (entropy / total, entropy_told), sums


def offset_term(
  offsets: Float[Array, "batch depth height width 3"], batch: Batch
) -> Term:
  """Huber loss (delta 2 voxels) of the predicted vector to the body centre.

  Args:
    offsets: in voxels.
    batch: the crops.

  Returns:
    Mean over vertebra voxels whose centre is known.
  """
  code = jnp.where(batch.labels == IGNORE, 0, batch.labels).astype(jnp.int32)
  centre = lookup(batch.centres, code)
  known = lookup(batch.has_centre[..., None], code)[..., 0] & (code > 0)
  known = known & batch.has_masks[:, None, None, None]
  place = jnp.stack(
    jnp.meshgrid(*(jnp.arange(n) for n in code.shape[1:]), indexing="ij"),
    axis=-1,
  )
  error = optax.huber_loss(offsets, centre - place[None], delta=2.0)
  weight, error = known.astype(jnp.float32), error.sum(axis=-1)
  return _mean((error * weight).sum(), weight.sum())


def lesion_terms(
  maps: LesionMaps, batch: Batch, spacing_mm: float
) -> tuple[Term, Term]:
  """Focal loss of the cells of lesions and L1 of their offset and log size.

  A lesion is taken for the ellipsoid in its box. Cells whose centre lies deep
  in it are positive, and the cell that holds its own centre; cells that it may
  touch are left out; all others are negative. The exact centre of a lesion
  cannot be told, and one cell of each is little to learn from.

  Args:
    maps: candidates at 1/4 resolution.
    batch: the crops.
    spacing_mm: voxel edge of the crops.

  Returns:
    Loss of the cells and of the boxes, per positive cell.

  Source:
    Ours, after Tian et al. 2019, FCOS (arXiv 1904.01355), whose focal loss is
    of Lin et al. 2017 (arXiv 1708.02002).
  """
  grid = maps.heat.shape[1:]
  centre = (batch.boxes[..., :3] + 0.5) / STEM_STRIDE - 0.5  # in cells
  size_mm = batch.boxes[..., 3:]
  half = (size_mm / (2 * STEM_STRIDE * spacing_mm))[:, :, None, None, None, :]
  place = jnp.stack(
    jnp.meshgrid(*(jnp.arange(n) for n in grid), indexing="ij"), axis=-1
  ).astype(jnp.float32)
  away = place[None, None] - centre[:, :, None, None, None, :]
  real = batch.box_mask[:, :, None, None, None]
  deep = ((away / jnp.maximum(half, 1e-3)) ** 2).sum(axis=-1) <= _DEEP**2
  inner = real & (deep | (jnp.abs(away).max(axis=-1) <= 0.5))
  near = real & (((away / (half + 0.5)) ** 2).sum(axis=-1) < 1)
  positive = inner.any(axis=1)
  counts = batch.has_lesions[:, None, None, None]
  counts &= positive | ~near.any(axis=1)
  cells = (positive & counts).sum()
  loss = optax.sigmoid_focal_loss(maps.heat, positive.astype(jnp.float32))
  loss, _ = _mean((loss * counts).sum(), cells)
  hit = (inner & counts[:, None]).astype(jnp.float32)[..., None]
  error = jnp.abs(maps.offset[:, None] + away) + jnp.abs(
    maps.log_size[:, None]
    - jnp.log(jnp.maximum(size_mm, 1.0))[:, :, None, None, None, :]
  )
  told = counts.any().astype(jnp.float32)  # that there is none, too
  return (loss, told), _mean((error * hit).sum(), cells)


def numbering_term(outputs: Outputs, batch: Batch) -> tuple[Term, Sums]:
  """Chain negative log-likelihood per point.

  Args:
    outputs: with `chain` filled.
    batch: the crops.

  Returns:
    The loss and the sums for the share of points with the right level.
  """
  assert outputs.chain is not None
  value = outputs.chain.negative_log_likelihood(batch.point_levels)
  used = batch.has_levels & batch.chain_fits & batch.point_mask.any(axis=1)
  points = (batch.point_mask & used[:, None]).sum()
  guess, _ = outputs.chain.decode()
  right = (guess == batch.point_levels) & batch.point_mask & used[:, None]
  return _mean(jnp.where(used, value, 0.0).sum(), points), {
    "level_accuracy": (
      right.sum().astype(jnp.float32),
      points.astype(jnp.float32),
    )
  }


def domain_term(
  log_mixture: Float[Array, "batch prototypes"], batch: Batch
) -> Term:
  """Cross-entropy of the prototype mixture with the sample's own domain.

  Args:
    log_mixture: log share of each prototype.
    batch: the crops.

  Returns:
    Mean over the batch.
  """
  own = jnp.take_along_axis(log_mixture, batch.domain[:, None], axis=1)
  return -own.mean(), jnp.ones(())


def divide_by_variance(
  term: Term, log_variance: Float[Array, ""]
) -> Float[Array, ""]:
  """Weighs a term by its learned variance, whose log it costs.

  A batch that tells nothing of a task costs nothing. Otherwise the variance of
  a task that is never annotated would fall without bound, and that of a rarely
  annotated one below its loss.

  Args:
    term: weighted loss of a task, and whether the batch tells of it.
    log_variance: the learned one.

  Returns:
    The weighted term.

  Source:
    Kendall et al. 2018 (arXiv 1705.07115).
  """
  value, told = term
  return jnp.exp(-log_variance) * value + told * log_variance


def total_loss(
  outputs: Outputs,
  batch: Batch,
  weights: LossConfig,
  spacing_mm: float,
  log_variance: Mapping[str, Float[Array, ""]] | None = None,
) -> tuple[Float[Array, ""], Sums]:
  """The weighted sum of all tasks that the network has.

  Args:
    outputs: of one forward pass with points.
    batch: the crops.
    weights: one a task.
    spacing_mm: voxel edge of the crops.
    log_variance: learned, one a task, for `weighting='uncertainty'`.

  Returns:
    The loss and the metric sums, each term among them.
  """
  dice, entropy, sums = supervised_terms(outputs, batch)
  terms = {"dice": dice, "cross_entropy": entropy}
  if outputs.offsets is not None:
    terms["offset"] = offset_term(outputs.offsets, batch)
  if outputs.chain is not None:
    terms["numbering"], found = numbering_term(outputs, batch)
    sums |= found
  if outputs.lesions is not None:
    terms["lesion"], terms["lesion_size"] = lesion_terms(
      outputs.lesions, batch, spacing_mm
    )
  if outputs.domain.log_mixture is not None:
    terms["domain"] = domain_term(outputs.domain.log_mixture, batch)
    spread = mixture_entropy(outputs.domain.log_mixture)
    sums["mixture_entropy"] = (spread.sum(), jnp.asarray(float(spread.size)))
  loss = jnp.zeros(())
  for name, weight in weights.weights.items():
    if name not in terms:
      continue
    value, told = terms[name]
    value = weight * value
    if log_variance is not None:
      value = divide_by_variance((value, told), log_variance[name])
    loss = loss + value
  sums |= {f"loss_{name}": term for name, term in terms.items()}
  sums["loss"] = (loss, jnp.ones(()))
  return loss, sums
