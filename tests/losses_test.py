# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Every loss against plain NumPy, and blind to what nobody annotated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vf_jax.config import LossConfig
from vf_jax.labels import CODES, IGNORE, VERTEBRAE
from vf_jax.losses import (
  Batch,
  domain_term,
  lesion_terms,
  numbering_term,
  offset_term,
  segmentation_terms,
  soft_dice,
  supervised_terms,
  total_loss,
)
from vf_jax.models.decoders.lesion import LesionMaps
from vf_jax.models.decoders.numbering import ChainScores
from vf_jax.models.modulation import DomainState
from vf_jax.models.vertebraformer import LEVEL_CLASSES, Masks, Outputs

SIZE, POINTS, BOXES, STATES = 16, 4, 2, 2 * len(VERTEBRAE) + 1
SPACING = 2.0
WEIGHTS = LossConfig("fixed", 1.0, 0.7, 0.1, 0.4, 0.2, 0.03, 0.05)
L1, L2 = 20, 21  # VerSe codes
# A flag of the batch, its terms, and the outputs that only they look at.
TASKS = {
  "has_masks": (("dice", "cross_entropy", "offset"), ("logits", "offsets")),
  "has_levels": (("numbering",), ("chain",)),
  "has_lesions": (("lesion", "lesion_size"), ("lesions",)),
}


def _batch() -> Batch:
  """Two crops with two vertebrae, an unknown slab, points and a lesion."""
  labels = np.zeros((2, SIZE, SIZE, SIZE), np.uint8)
  labels[:, 9:14, 4:10, 3:9] = L1
  labels[:, 2:7, 4:10, 3:9] = L2
  labels[:, :, 14:] = IGNORE
  centres = np.zeros((2, CODES, 3), np.float32)
  centres[:, L1], centres[:, L2] = (11.2, 7.4, 5.1), (4.3, 6.6, 6.0)
  has_centre = np.zeros((2, CODES), bool)
  has_centre[:, L1] = True  # the centre of L2 is not known
  points = np.zeros((2, POINTS, 3), np.float32)
  points[:, 0], points[:, 1] = centres[:, L1], centres[:, L2]
  levels = np.full((2, POINTS), -1, np.int32)
  levels[:, :2] = 20, 21
  boxes = np.zeros((2, BOXES, 6), np.float32)
  boxes[:, 0] = (5.2, 9.9, 6.4, 12.0, 20.0, 30.0)
  return Batch(
    image=jnp.zeros(labels.shape),
    labels=jnp.asarray(labels),
    spacing_mm=jnp.ones((2, 3)),
    centres=jnp.asarray(centres),
    has_centre=jnp.asarray(has_centre),
    points=jnp.asarray(points),
    point_levels=jnp.asarray(levels),
    point_mask=jnp.asarray(np.arange(POINTS) < 3)[None].repeat(2, 0),
    chain_fits=jnp.ones(2, bool),
    boxes=jnp.asarray(boxes),
    box_mask=jnp.asarray([[True, False]] * 2),
    domain=jnp.asarray([0, 2]),
    has_masks=jnp.ones(2, bool),
    has_levels=jnp.ones(2, bool),
    has_lesions=jnp.ones(2, bool),
    case=jnp.zeros(2, jnp.int32),
  )


def _outputs(batch: Batch) -> Outputs:
  rng = np.random.default_rng(0)

  def draw(*shape, scale=1.0):
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)

  cells = (2, SIZE // 4, SIZE // 4, SIZE // 4)
  full = (2, SIZE, SIZE, SIZE)
  return Outputs(
    logits=draw(*full),
    offsets=draw(*full, 3, scale=4.0),
    levels=None,
    coarse=(),
    lesions=LesionMaps(draw(*cells), draw(*cells, 3), draw(*cells, 3)),
    domain=DomainState(None, jax.nn.log_softmax(draw(2, 5))),
    evidence=None,
    chain=ChainScores(
      draw(2, POINTS, STATES),
      draw(2, POINTS, STATES, STATES),
      batch.point_mask,
    ),
  )


@jax.jit
def _grad(outputs: Outputs, batch: Batch):
  """Gradient towards the outputs; a mask is no number and left out."""

  def loss(values):
    logits, offsets, lesions, log_mixture, emissions, transitions = values
    rebuilt = outputs.replace(
      logits=logits,
      offsets=offsets,
      lesions=lesions,
      domain=DomainState(None, log_mixture),
      chain=outputs.chain.replace(emissions=emissions, transitions=transitions),
    )
    return total_loss(rebuilt, batch, WEIGHTS, SPACING)

  values = (
    outputs.logits,
    outputs.offsets,
    outputs.lesions,
    outputs.domain.log_mixture,
    outputs.chain.emissions,
    outputs.chain.transitions,
  )
  (value, sums), g = jax.value_and_grad(loss, has_aux=True)(values)
  names = ("logits", "offsets", "lesions", "domain", "chain")
  return value, sums, dict(zip(names, (*g[:4], g[4:])))


def _size(tree, sample: int) -> float:
  return max(
    float(jnp.abs(leaf[sample]).max()) for leaf in jax.tree.leaves(tree)
  )


@pytest.mark.parametrize("flag", TASKS)
def test_what_a_source_does_not_annotate_teaches_nothing(flag):
  batch = _batch()
  outputs = _outputs(batch)
  terms, blind = TASKS[flag]
  _, sums, grads = _grad(outputs, batch)
  for term in terms:  # all of it counts where it is annotated
    assert float(sums[f"loss_{term}"][0]) > 0
  for name in ("logits", "offsets", "lesions", "chain", "domain"):
    assert _size(grads[name], 0) > 0
    assert _size(grads[name], 1) > 0

  one = batch.replace(**{flag: jnp.array([True, False])})
  _, _, grads = _grad(outputs, one)
  for name in grads:
    assert _size(grads[name], 0) > 0
    assert (_size(grads[name], 1) == 0) == (name in blind), name

  none = batch.replace(**{flag: jnp.zeros(2, bool)})
  _, sums, grads = _grad(outputs, none)
  for other, (names, seen) in TASKS.items():
    for term in names:
      value, told = (float(x) for x in sums[f"loss_{term}"])
      assert (value == 0) == (other == flag), term
      # So that it is left out of a record, and no mean of zeros.
      assert told == (other != flag), term
    for name in seen:
      assert (_size(grads[name], 0) == 0) == (other == flag), name


def test_a_batch_without_any_annotation_is_finite_and_teaches_the_domain():
  batch = _batch()
  nothing = jnp.zeros(2, bool)
  empty = batch.replace(
    labels=jnp.full_like(batch.labels, IGNORE),
    has_centre=jnp.zeros_like(batch.has_centre),
    point_mask=jnp.zeros_like(batch.point_mask),
    point_levels=jnp.full_like(batch.point_levels, -1),
    box_mask=jnp.zeros_like(batch.box_mask),
    has_masks=nothing,
    has_levels=nothing,
    has_lesions=nothing,
  )
  outputs = _outputs(batch)
  chain = outputs.chain.replace(mask=empty.point_mask)
  value, sums, grads = _grad(outputs.replace(chain=chain), empty)
  domain, _ = domain_term(outputs.domain.log_mixture, empty)
  np.testing.assert_allclose(value, WEIGHTS.domain * domain, rtol=1e-6)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves((sums, grads)))
  assert _size(grads["domain"], 0) > 0


def test_total_is_the_weighted_sum_of_its_terms():
  batch = _batch()
  value, sums, _ = _grad(_outputs(batch), batch)
  expected = sum(
    weight * float(sums[f"loss_{name}"][0])
    for name, weight in WEIGHTS.weights.items()
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(sums["loss"][0], value, rtol=1e-7)


@pytest.mark.parametrize("smooth", [1.0, 0.01])
def test_soft_dice_agrees_with_optax(smooth):
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=300), jnp.float32)
  truth = jnp.asarray(rng.random(300) < 0.3, jnp.float32)
  valid = jnp.asarray(rng.random(300) < 0.6, jnp.float32)
  seen = np.flatnonzero(np.asarray(valid))
  # optax halves the cardinalities, so that its `smooth` is half of ours.
  theirs = optax.losses.dice_loss(
    logits[seen][None, :, None], truth[seen][None, :, None], smooth=smooth / 2
  )
  ours = soft_dice(jax.nn.sigmoid(logits), truth, valid, smooth)
  np.testing.assert_allclose(ours, theirs[0], rtol=1e-5)
  assert 0.2 < float(ours) < 0.8
  assert float(soft_dice(truth, truth, valid, smooth)) == 0
  assert float(soft_dice(truth * 0, truth * 0, valid, smooth)) == 0


def test_segmentation_terms_agree_with_numpy():
  batch = _batch()
  outputs = _outputs(batch)
  logits = outputs.logits
  (dice, _), (entropy, _), sums = segmentation_terms(
    outputs, batch.labels, batch
  )
  seen = np.asarray(batch.labels) != IGNORE
  truth = (np.asarray(batch.labels) > 0)[seen]
  p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)[seen]))
  np.testing.assert_allclose(
    entropy, -np.where(truth, np.log(p), np.log(1 - p)).mean(), rtol=1e-5
  )
  overlap = (2 * p[truth].sum() + 1) / (p.sum() + truth.sum() + 1)
  np.testing.assert_allclose(dice, 1 - overlap, rtol=1e-5)
  found = p > 0.5
  assert float(sums["dice"][0]) == 2 * (found & truth).sum()
  assert float(sums["dice"][1]) == found.sum() + truth.sum()


def test_unknown_voxels_do_not_matter():
  batch = _batch()
  outputs = _outputs(batch)
  unknown = batch.labels == IGNORE
  value, _, grads = _grad(outputs, batch)
  other, _, _ = _grad(
    outputs.replace(
      logits=jnp.where(unknown, 30.0, outputs.logits),
      offsets=jnp.where(unknown[..., None], 30.0, outputs.offsets),
    ),
    batch,
  )
  assert float(value) == float(other)
  assert float(jnp.abs(grads["logits"])[unknown].max()) == 0
  assert float(jnp.abs(grads["logits"])[~unknown].min()) > 0


def _true_offsets(batch: Batch) -> np.ndarray:
  place = np.stack(np.indices((SIZE,) * 3), axis=-1)[None]
  centre = np.asarray(batch.centres[:, L1])[:, None, None, None]
  return (centre - place).astype(np.float32)


def test_offsets_are_zero_at_the_truth_and_huber_beside_it():
  batch = _batch()
  exact = _true_offsets(batch)
  # The body centre seen from one corner of the vertebra, by hand.
  np.testing.assert_allclose(exact[0, 9, 4, 3], (2.2, 3.4, 2.1), atol=1e-6)
  assert float(offset_term(jnp.asarray(exact), batch)[0]) == pytest.approx(
    0, abs=1e-9
  )
  wrong = exact + np.array([1.0, -3.0, 0.0], np.float32)
  # Huber at delta 2: 1^2 / 2, and 2 * (3 - 2 / 2).
  assert float(offset_term(jnp.asarray(wrong), batch)[0]) == pytest.approx(
    0.5 + 4.0, rel=1e-5
  )


def test_offsets_count_only_inside_vertebrae_with_a_known_centre():
  batch = _batch()
  labels = np.asarray(batch.labels)
  noise = 9 * np.random.default_rng(2).normal(size=(*labels.shape, 3))
  noise = noise.astype(np.float32)
  elsewhere = np.where((labels == L1)[..., None], 0, noise)
  loss, _ = offset_term(jnp.asarray(_true_offsets(batch) + elsewhere), batch)
  assert float(loss) == pytest.approx(0, abs=1e-9)
  # One voxel of 5 * 6 * 6 * 2 is off by one.
  nudge = _true_offsets(batch)
  nudge[1, 13, 9, 8, 2] += 1
  assert float(offset_term(jnp.asarray(nudge), batch)[0]) == pytest.approx(
    0.5 / 360, rel=1e-4
  )
  unknown = batch.replace(has_centre=jnp.zeros_like(batch.has_centre))
  assert float(offset_term(jnp.asarray(noise), unknown)[0]) == 0


def _focal(heat, boxes):
  """The loss of the cells of one sample, and how many are positive."""
  total = positives = 0.0
  for cell in np.ndindex(heat.shape):
    positive = near = False
    for box in boxes:
      away = np.array(cell) - ((box[:3] + 0.5) / 4 - 0.5)
      radii = box[3:] / 2 / (4 * SPACING)
      deep = np.linalg.norm(away / radii) <= 0.75
      positive |= bool(deep or (np.abs(away) <= 0.5).all())
      near |= bool(np.linalg.norm(away / (radii + 0.5)) < 1)
    p = 1 / (1 + np.exp(-heat[cell]))
    if positive:
      total -= (1 - p) ** 2 * np.log(p)
      positives += 1
    elif not near:
      total -= p**2 * np.log(1 - p)
  return total, positives


def test_cells_of_lesions_agree_with_numpy():
  batch = _batch()
  boxes = np.asarray(batch.boxes).copy()
  boxes[1, 1] = (9.0, 2.0, 3.0, 40.0, 24.0, 16.0)
  mask = np.array([[True, False], [True, True]])
  batch = batch.replace(boxes=jnp.asarray(boxes), box_mask=jnp.asarray(mask))
  maps = _outputs(batch).lesions
  (heat, _), _ = lesion_terms(maps, batch, SPACING)
  parts = [
    _focal(np.asarray(maps.heat[i], np.float64), boxes[i][mask[i]])
    for i in range(2)
  ]
  # Four cells of the first lesion, six of the other.
  assert [p for _, p in parts] == [4, 10]
  expected = sum(t for t, _ in parts) / 14
  np.testing.assert_allclose(heat, expected, rtol=1e-5)


def test_a_lesion_smaller_than_a_cell_has_the_cell_of_its_centre():
  batch = _batch()
  boxes = np.asarray(batch.boxes).copy()
  boxes[:, 0] = (5.2, 9.9, 6.4, 1.0, 1.0, 1.0)
  batch = batch.replace(boxes=jnp.asarray(boxes))
  maps = _outputs(batch).lesions
  sure = jnp.full_like(maps.heat, -9.0).at[:, 1, 2, 1].set(9.0)
  (heat, _), _ = lesion_terms(maps.replace(heat=sure), batch, SPACING)
  assert float(heat) < 1e-6


def test_lesion_free_crops_teach_that_there_is_none():
  batch = _batch()
  batch = batch.replace(box_mask=jnp.zeros((2, BOXES), bool))
  maps = _outputs(batch).lesions
  (heat, told), (box, boxes) = lesion_terms(maps, batch, SPACING)
  assert (float(told), float(boxes)) == (1, 0)
  (cold, _), _ = lesion_terms(maps.replace(heat=maps.heat - 9), batch, SPACING)
  assert float(heat) > 1
  assert float(cold) < 0.01 * float(heat)
  assert float(box) == 0


def test_lesion_box_is_read_at_each_of_its_cells():
  batch = _batch()
  maps = _outputs(batch).lesions
  # (5.2, 9.9, 6.4) voxels are (0.925, 2.1, 1.225) cells, the radii 0.75, 1.25
  # and 1.875 cells.
  offset, size = maps.offset, maps.log_size
  for h, w in ((2, 0), (2, 1), (2, 2), (3, 1)):
    cell = (slice(None), 1, h, w)
    away = jnp.array([-0.075, 2.1 - h, 1.225 - w])
    offset = offset.at[cell].set(away)
    size = size.at[cell].set(jnp.log(jnp.array([12.0, 20.0, 30.0])))
  exact = maps.replace(offset=offset, log_size=size)
  _, (box, _) = lesion_terms(exact, batch, SPACING)
  assert float(box) == pytest.approx(0, abs=1e-5)
  wrong = exact.replace(
    offset=offset.at[0, 1, 2, 2, 0].add(0.5),
    log_size=size.at[1, 1, 2, 1, 2].add(-0.3),
  )
  _, (box, _) = lesion_terms(wrong, batch, SPACING)
  assert float(box) == pytest.approx((0.5 + 0.3) / 8, rel=1e-4)


def test_numbering_is_likelihood_a_point_of_sequences_with_levels():
  batch = _batch()
  outputs = _outputs(batch)
  cost = jax.jit(ChainScores.negative_log_likelihood)
  each = np.asarray(cost(outputs.chain, batch.point_levels))
  assert (each > 1).all()
  term = jax.jit(numbering_term)
  (loss, _), sums = term(outputs, batch)
  assert float(loss) == pytest.approx(each.sum() / 6, rel=1e-5)
  assert float(sums["level_accuracy"][1]) == 6
  for name in ("has_levels", "chain_fits"):
    second = batch.replace(**{name: jnp.array([False, True])})
    (loss, _), sums = term(outputs, second)
    assert float(loss) == pytest.approx(each[1] / 3, rel=1e-5)
    assert float(sums["level_accuracy"][1]) == 3


def test_level_accuracy_counts_right_points():
  batch = _batch()
  outputs = _outputs(batch)
  emissions = np.full((2, POINTS, STATES), -50.0, np.float32)
  emissions[:, 0, 20] = emissions[:, 1, 21] = 50
  emissions[:, 2, len(VERTEBRAE) + 21] = 50  # a false detection after it
  emissions[1, 1, 21], emissions[1, 1, 22] = -50, 50  # one level too low
  chain = outputs.chain.replace(emissions=jnp.asarray(emissions))
  _, sums = jax.jit(numbering_term)(outputs.replace(chain=chain), batch)
  assert [float(v) for v in sums["level_accuracy"]] == [5, 6]


def test_a_term_that_is_met_exactly_is_a_term():
  batch = _batch()
  air = batch.replace(labels=jnp.zeros_like(batch.labels))
  outputs = _outputs(batch)
  sure = outputs.replace(logits=jnp.full_like(outputs.logits, -200.0))
  found = segmentation_terms(sure, air.labels, air)[:2]
  assert [[float(x) for x in term] for term in found] == [[0, 1], [0, 1]]


def test_a_sequence_that_no_chain_explains_is_harmless_when_left_out():
  batch = _batch()
  outputs = _outputs(batch)
  chain = outputs.chain
  barred = chain.replace(transitions=chain.transitions.at[1].set(-1e9))
  outputs = outputs.replace(chain=barred)
  one = batch.replace(chain_fits=jnp.array([True, False]))
  value, _, grads = _grad(outputs, one)
  assert float(value) < 1e3
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert _size(grads["chain"], 1) == 0


def test_domain_term_reads_the_own_share():
  batch = _batch()
  share = jnp.array([[0.5, 0.2, 0.3], [0.25, 0.25, 0.5]])
  loss, _ = domain_term(jnp.log(share), batch)  # domains 0 and 2
  assert float(loss) == pytest.approx(np.log(2), rel=1e-6)


def _semantic(batch: Batch) -> Outputs:
  """What a network without identification says."""
  rng = np.random.default_rng(2)
  shape = (*batch.labels.shape, LEVEL_CLASSES)
  levels = jnp.asarray(rng.standard_normal(shape), jnp.float32)
  vertebra = jax.nn.logsumexp(levels[..., 1:], axis=-1) - levels[..., 0]
  return _outputs(batch).replace(
    logits=vertebra, offsets=None, levels=levels, chain=None, lesions=None
  )


def test_levels_of_voxels_agree_with_numpy():
  batch = _batch()
  outputs = _semantic(batch)
  (dice, _), (entropy, _), sums = segmentation_terms(
    outputs, batch.labels, batch
  )
  seen = np.asarray(batch.labels) != IGNORE
  codes = np.asarray(batch.labels)[seen]
  order = [0, *(level.code for level in VERTEBRAE)]
  classes = np.array([order.index(code) for code in codes])
  logits = np.asarray(outputs.levels, np.float64)[seen]
  share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  picked = share[np.arange(len(classes)), classes]
  np.testing.assert_allclose(entropy, -np.log(picked).mean(), rtol=1e-5)
  losses = []
  for index in sorted(set(classes) - {0}):
    truth = classes == index
    both, size = share[truth, index].sum(), share[:, index].sum() + truth.sum()
    losses.append(1 - (2 * both + 1) / (size + 1))
  np.testing.assert_allclose(dice, np.mean(losses), rtol=1e-5)
  # The training Dice is that of vertebra against everything else.
  found, truth = share[:, 0] < 0.5, codes > 0
  assert float(sums["dice"][0]) == 2 * (found & truth).sum()


def test_levels_of_voxels_gather_nothing_on_accelerators(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  batch = _batch()
  outputs = _semantic(batch)

  def loss(levels):
    masks = outputs.replace(levels=levels)
    dice, entropy, _ = segmentation_terms(masks, batch.labels, batch)
    return dice[0] + entropy[0]

  program = str(jax.make_jaxpr(jax.grad(loss))(outputs.levels))
  assert "gather" not in program
  assert "scatter-add" not in program


def test_masks_without_levels_teach_no_level():
  batch = _batch().replace(has_levels=jnp.array([True, False]))
  outputs = _semantic(batch)

  def loss(levels):
    changed = outputs.replace(levels=levels)
    return total_loss(changed, batch, WEIGHTS, SPACING)[0]

  grad = jax.grad(loss)(outputs.levels)
  assert float(jnp.abs(grad[0]).max()) > 0
  assert float(jnp.abs(grad[1]).max()) == 0


def test_a_removed_task_has_no_term():
  batch = _batch()
  _, sums = total_loss(_semantic(batch), batch, WEIGHTS, SPACING)
  terms = {name for name in sums if name.startswith("loss_")}
  assert terms == {"loss_dice", "loss_cross_entropy", "loss_domain"}


def test_coarse_masks_weigh_half_of_the_next_finer():
  batch = _batch()
  outputs = _outputs(batch)
  masks = Masks(outputs.logits[:, ::2, ::2, ::2], None, None)
  labels = batch.labels[:, 1::2, 1::2, 1::2]  # the middle of every two
  fine = segmentation_terms(outputs, batch.labels, batch)
  half = segmentation_terms(masks, labels, batch)
  *found, sums = supervised_terms(outputs.replace(coarse=(masks,)), batch)
  for (both, _), (one, _), (other, _) in zip(found, fine[:2], half[:2]):
    np.testing.assert_allclose(both, (2 * one + other) / 3, rtol=1e-6)
  assert sums["dice"] == fine[2]["dice"]


def test_a_learned_variance_divides_its_term_and_costs_its_log():
  batch = _batch()
  outputs = _outputs(batch)
  zero = {name: jnp.zeros(()) for name in WEIGHTS.weights}

  def loss(log_variance):
    return total_loss(outputs, batch, WEIGHTS, SPACING, log_variance)

  (value, sums), grad = jax.value_and_grad(loss, has_aux=True)(zero)
  fixed, _ = total_loss(outputs, batch, WEIGHTS, SPACING)
  np.testing.assert_allclose(value, fixed, rtol=1e-6)
  for name, weight in WEIGHTS.weights.items():
    # The best variance of a task is its weighted loss.
    expected = 1 - weight * float(sums[f"loss_{name}"][0])
    np.testing.assert_allclose(grad[name], expected, rtol=1e-4, atol=1e-6)
  other, _ = loss(zero | {"dice": jnp.log(2.0)})
  half = float(WEIGHTS.dice * sums["loss_dice"][0]) / 2
  np.testing.assert_allclose(value - other, half - np.log(2), rtol=1e-4)


@pytest.mark.parametrize("flag", list(TASKS))
def test_a_variance_is_not_learned_from_what_nobody_annotated(flag):
  batch = _batch()
  batch = batch.replace(**{flag: jnp.zeros_like(getattr(batch, flag))})
  outputs = _outputs(batch)
  low = {name: jnp.full((), -1.0) for name in WEIGHTS.weights}

  def loss(log_variance):
    return total_loss(outputs, batch, WEIGHTS, SPACING, log_variance)[0]

  grad = jax.grad(loss)(low)
  still = {name for name, value in grad.items() if float(value) == 0}
  assert still == set(TASKS[flag][0])
  # Nor is anything won by the value that it has.
  lower = low | {name: jnp.full((), -9.0) for name in still}
  assert float(loss(lower)) == float(loss(low))
