"""A patient is what a CT of one would show, and knows where everything is."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.hounsfield import judge_hounsfield
from vf_jax.labels import BY_CODE, BY_NAME
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom import anatomy as anatomy_module
from vf_jax.multispine.phantom.anatomy import Rates, make_anatomy
from vf_jax.multispine.phantom.spine import draw_variant

_EDGE = 2.0


@functools.cache
def _patient(seed, first, last, variant=None):
  variants = {variant: 1.0} if variant else {"L6": 0.0}
  return make_anatomy(
    np.random.default_rng(seed),
    levels=(first, last),
    spacing_mm=_EDGE,
    rates=Rates(variants, 0.0, 0.0),
  )


def _code_at(anatomy, point):
  i, j, k = np.rint(anatomy.grid.to_voxel(np.array([point]))[0]).astype(int)
  return int(anatomy.labels[i, j, k])


def test_the_arrays_fit_the_grid():
  anatomy = _patient(0, "T12", "L3")
  assert anatomy.grid.shape == anatomy.hu.shape == anatomy.labels.shape
  assert anatomy.tissue.shape == anatomy.hu.shape
  assert anatomy.hu.dtype == np.int16
  assert anatomy.labels.dtype == anatomy.tissue.dtype == np.uint8
  assert anatomy.grid.spacing == (_EDGE, _EDGE, _EDGE)
  assert anatomy.grid.axis_codes == ("R", "A", "S")


@pytest.mark.parametrize(
  ("first", "last"), [("C2", "T1"), ("T3", "T9"), ("T12", "L5")]
)
def test_centres_and_pedicles_lie_in_their_vertebra(first, last):
  anatomy = _patient(1, first, last)
  wanted = range(BY_NAME[first].order, BY_NAME[last].order + 1)
  seen = {BY_CODE[code].order for code in anatomy.centres}
  assert set(wanted) - {BY_NAME["T13"].order} <= seen
  assert set(anatomy.pedicles) == set(anatomy.centres)
  for code, centre in anatomy.centres.items():
    assert _code_at(anatomy, centre) == code
    left, right = anatomy.pedicles[code]
    assert left[0] < centre[0] < right[0]
    assert left[1] < centre[1] + 1
    near = {
      _code_at(anatomy, np.array(p) + d)
      for p in (left, right)
      for d in (0, *np.eye(3), *-np.eye(3))
    }
    assert code in near


def test_vertebrae_have_sizes_of_vertebrae():
  anatomy = _patient(1, "T12", "L5")
  millilitres = np.bincount(anatomy.labels.ravel()) * _EDGE**3 / 1000
  for name, low, high in (("T12", 22, 70), ("L1", 26, 80), ("L3", 32, 90)):
    assert low < millilitres[BY_NAME[name].code] < high


def test_the_patient_is_made_of_hounsfield_units():
  anatomy = _patient(2, "T9", "L2")
  assert judge_hounsfield(anatomy.hu).verdict == "ok"
  assert anatomy.hu.min() >= -1024
  assert 600 < anatomy.hu.max() < 1600
  for kind, low, high in (
    (tissues.OUTSIDE, -1024, -990), (tissues.LUNG, -900, -700),
    (tissues.FAT, -120, -70), (tissues.MUSCLE, 20, 75),
    (tissues.VESSEL, 20, 60), (tissues.CARTILAGE, 50, 140),
  ):  # fmt: skip
    values = anatomy.hu[anatomy.tissue == kind.code]
    assert values.size > 200, kind
    assert low <= np.median(values) <= high, kind
  bone = anatomy.hu[anatomy.labels > 0]
  assert 80 < np.median(bone) < 500
  # The skin closes: no air from one side of the body to the other.
  middle = anatomy.hu[:, anatomy.hu.shape[1] // 2, :]
  assert (middle[middle.shape[0] // 2] > -500).mean() > 0.5
  assert (anatomy.hu[0] < -990).all()
  assert (anatomy.hu[-1] < -990).all()


def test_volumes_go_on_beyond_the_levels():
  anatomy = _patient(2, "T9", "L2")
  for end in (0, -1):
    layer = anatomy.labels[:, :, end]
    body = anatomy.hu[:, :, end] > -300
    assert body.sum() * _EDGE**2 > 20000  # mm^2
    assert layer.any() or (anatomy.hu[:, :, end] > 200).any()
  ribs = (anatomy.tissue == tissues.BONE.code) & (anatomy.labels == 0)
  assert ribs.sum() * _EDGE**3 > 20000


def test_same_seed_same_bytes():
  draw = [
    make_anatomy(np.random.default_rng(5), levels=("L2", "L3"), spacing_mm=3.0)
    for _ in range(2)
  ]
  np.testing.assert_array_equal(draw[0].hu, draw[1].hu)
  np.testing.assert_array_equal(draw[0].labels, draw[1].labels)
  np.testing.assert_array_equal(draw[0].tissue, draw[1].tissue)
  assert draw[0].centres == draw[1].centres
  other = make_anatomy(
    np.random.default_rng(6), levels=("L2", "L3"), spacing_mm=3.0
  )
  assert other.centres != draw[0].centres


@pytest.mark.parametrize(
  ("variant", "there", "gone"),
  [("T13", "T13", "L6"), ("L6", "L6", "T13"), ("absent T12", "L1", "T12")],
)
def test_variants_are_in_the_labels(variant, there, gone):
  anatomy = _patient(3, "T11", "L5", variant)
  assert anatomy.variant == variant
  assert (anatomy.labels == BY_NAME[there].code).sum() > 500
  assert BY_NAME[there].code in anatomy.centres
  assert not (anatomy.labels == BY_NAME[gone].code).any()
  assert BY_NAME[gone].code not in anatomy.centres


@pytest.mark.parametrize("seed", range(4))
def test_the_variant_is_drawn_first(seed):
  shares = {"T13": 0.3, "L6": 0.3}
  patient = make_anatomy(
    np.random.default_rng(seed),
    levels=("L2", "L3"),
    spacing_mm=6.0,
    rates=Rates(shares),
  )
  assert patient.variant == draw_variant(np.random.default_rng(seed), shares)


def test_an_absent_level_stands_for_its_neighbour():
  anatomy = _patient(3, "T12", "T12", "absent T12")
  assert BY_NAME["T11"].code in anatomy.centres


def _twins(monkeypatch, draw, seed, rates):
  """A patient, the same without what `draw` drew, and what it drew."""
  true_draw, drawn = getattr(anatomy_module, draw), []

  def make(spared):
    def draw_and_keep(*arguments):
      drawn.append(true_draw(*arguments))
      return type(drawn[-1])() if spared else drawn[-1]

    monkeypatch.setattr(anatomy_module, draw, draw_and_keep)
    return make_anatomy(
      np.random.default_rng(seed),
      levels=("T11", "L4"),
      spacing_mm=_EDGE,
      rates=rates,
    )

  hurt, spared = make(False), make(True)
  assert drawn[0] == drawn[1]
  return hurt, spared, drawn[0]


@pytest.mark.parametrize("seed", range(3))
def test_lesion_boxes_hold_changed_bone(seed, monkeypatch):
  rates = Rates({"L6": 0.0}, 0.0, 1.0)
  ill, well, _ = _twins(monkeypatch, "draw_lesions", seed, rates)
  assert ill.lesions
  assert not well.lesions
  np.testing.assert_array_equal(ill.labels, well.labels)
  gain = ill.hu.astype(int) - well.hu
  elsewhere = gain != 0
  for box in ill.lesions:
    low = np.array(box.centre_mm) - np.array(box.size_mm) / 2
    high = low + box.size_mm
    a, b = (
      np.rint(ill.grid.to_voxel(p[None])[0] + 0.5).astype(int)
      for p in (low, high)
    )
    assert (a >= 0).all()
    assert (b <= ill.hu.shape).all()
    cut = tuple(slice(i, j) for i, j in zip(a, b))
    elsewhere[cut] = False
    bone = ill.labels[cut] > 0
    assert bone.mean() > 0.25
    changed = gain[cut][bone & (gain[cut] != 0)]
    assert changed.size > 0.15 * bone.size
    if box.kind == "lytic":
      # 70 HU below the bone at least, less where it is blurred.
      assert np.median(changed) < -30
    else:
      assert box.kind == "sclerotic"
      # A third of the difference at its surface, all of it in its core.
      assert np.median(changed) > 100
      assert np.percentile(changed, 90) > 250
  # A voxel at its rim may be changed and not be bone.
  assert elsewhere.sum() < 0.02 * (gain != 0).sum()


def test_vertebrae_beyond_the_wanted_levels_have_lesions_too():
  """A scan shows parts of them; all of these being healthy would be a cue."""
  hit = set()
  for seed in range(10):
    patient = make_anatomy(
      np.random.default_rng(seed),
      levels=("T11", "T12"),
      spacing_mm=_EDGE,
      rates=Rates({"L6": 0.0}, 0.0, 1.0),
    )
    for box in patient.lesions:
      voxel = np.rint(patient.grid.to_voxel(np.array([box.centre_mm]))[0])
      hit.add(int(patient.labels[tuple(voxel.astype(int))]))
  names = {BY_CODE[code].name for code in hit if code}
  assert names == {"T10", "T11", "T12", "L1"}


def _height(anatomy, code, front_mm):
  """Mean height of a vertebra so far in front of its centre, mm."""
  centre = np.array([anatomy.centres[code]])
  i, j, _ = np.rint(anatomy.grid.to_voxel(centre)[0]).astype(int)
  j += round(front_mm / _EDGE)
  body = anatomy.labels[i - 2 : i + 3, j - 2 : j + 3] == code
  return float(body.sum(axis=2).mean()) * _EDGE


@pytest.mark.parametrize(
  ("seed", "kinds"), [(5, {"crush", "biconcave"}), (8, {"wedge"})]
)
def test_fractured_bodies_are_lower(seed, kinds, monkeypatch):
  rates = Rates({"L6": 0.0}, 9.0, 0.0)
  hurt, whole, drawn = _twins(monkeypatch, "draw_fractures", seed, rates)
  assert not whole.fractures
  assert {BY_CODE[code].name for code in hurt.fractures} == set(drawn)
  assert {kind for kind, _ in hurt.fractures.values()} == kinds
  for name, fracture in drawn.items():
    code = BY_NAME[name].code
    assert hurt.fractures[code] == (fracture.kind, fracture.grade)
    assert 1 <= fracture.grade <= 3
    # Three quarters of what a wedge loses at its front edge.
    front, share = (8.0, 0.75) if fracture.kind == "wedge" else (0.0, 1.0)
    ratio = _height(hurt, code, front) / _height(whole, code, front)
    # Neighbours tell how high the whole body is: not to the millimetre. One
    # that does not give way has a ratio more than 0.09 off.
    assert ratio == pytest.approx(1 - share * fracture.loss, abs=0.07)


def test_levels_are_drawn_if_none_are_asked_for():
  anatomy = make_anatomy(np.random.default_rng(0), spacing_mm=4.0)
  assert len(anatomy.centres) >= 4


def test_strange_levels_are_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(InputError, match="below"):
    make_anatomy(rng, levels=("L5", "T9"), spacing_mm=4.0)
  with pytest.raises(InputError, match="no vertebra level"):
    make_anatomy(rng, levels=("L9", "L5"), spacing_mm=4.0)


def test_strange_sizes_are_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(InputError, match=r"spacing 0\.1 mm"):
    make_anatomy(rng, spacing_mm=0.1)
  with pytest.raises(InputError, match="margin of 0 mm"):
    make_anatomy(rng, margin_mm=0)
