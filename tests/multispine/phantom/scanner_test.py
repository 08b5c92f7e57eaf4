"""The scanner: what a setting promises is found in the image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from vf_jax.labels import BY_NAME
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.domains import DOMAINS, Protocol, draw_protocol
from vf_jax.multispine.phantom.scanner import acquire, cut_codes
from vf_jax.volume import Volume, check_hounsfield, reorient, resample

PLAIN = Protocol(
  domain="verse",
  span=("L1", "L2"),
  kernel="standard",
  kvp=120,
  noise_hu=20.0,
  field_mm=180.0,
  matrix=120,
  slice_mm=2.0,
  step_mm=2.0,
  centred_on="spine",
  contrast_hu=0.0,
  offset_hu=0.0,
  metal=False,
  tilt_deg=0.0,
  turn_deg=(0.0, 0.0, 0.0),
  padding_hu=None,
  reformat_mm=None,
  table="back",
  orientation="RAS",
)


@pytest.fixture(scope="module")
def patient(stub_anatomy):
  return stub_anatomy("T12", "L3", 2.0)


def scan_of(patient, **settings):
  protocol = dataclasses.replace(PLAIN, **settings)
  return acquire(patient, protocol, np.random.default_rng(1))


def muscle(scan, patient):
  """HU of the scan well inside the muscle, and where that is."""
  image = reorient(scan.image, "RAS")
  inside = resample(
    (patient.tissue == tissues.MUSCLE.code).astype(np.uint8),
    patient.grid,
    image.grid,
    order=0,
  )
  solid = ndimage.binary_erosion(inside, iterations=6, border_value=0)
  return image.voxels, solid


def test_same_seed_same_scan_and_other_seed_other_noise(patient):
  first, second = scan_of(patient), scan_of(patient)
  np.testing.assert_array_equal(first.image.voxels, second.image.voxels)
  other = acquire(patient, PLAIN, np.random.default_rng(2))
  assert (
    other.image.voxels.shape != first.image.voxels.shape
    or (other.image.voxels != first.image.voxels).any()
  ), "the seed does nothing"


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"tilt_deg": 15.0, "orientation": "LPS"},
    {"turn_deg": (5.0, -6.0, 8.0), "orientation": "PIR"},
    {"reformat_mm": 3.0, "orientation": "PSR"},
    {"centred_on": "body", "field_mm": 340.0, "orientation": "ASL"},
  ],
)
def test_labels_lie_where_the_patient_has_them(patient, settings):
  scan = scan_of(patient, **settings)
  assert "".join(scan.image.axis_codes) == settings.get("orientation", "RAS")
  assert scan.image.grid.same_as(scan.labels.grid)
  voxels = np.argwhere(scan.labels.voxels > 0)[::7]
  codes = scan.labels.voxels[tuple(voxels.T)]
  world = scan.labels.grid.to_world(voxels)
  there = np.rint(patient.grid.to_voxel(world)).astype(int)
  inside = ((there >= 0) & (there < patient.labels.shape)).all(axis=1)
  assert inside.mean() > 0.99
  agree = patient.labels[tuple(there[inside].T)] == codes[inside]
  # Ties of rounding at voxel borders are all that may differ.
  assert agree.mean() > 0.97
  for name in PLAIN.span:
    code = BY_NAME[name].code
    point = scan.labels.grid.to_voxel(np.array([patient.centres[code]]))[0]
    assert scan.labels.voxels[tuple(np.rint(point).astype(int))] == code


def test_tilted_gantry_shears_the_grid(patient):
  affine = scan_of(patient, tilt_deg=15.0).image.affine[:3, :3]
  columns = affine / np.linalg.norm(affine, axis=0)
  assert columns[:, 1] @ columns[:, 2] == pytest.approx(
    np.sin(np.radians(15)), abs=1e-4
  )
  np.testing.assert_allclose(columns[:, 2], (0, 0, 1), atol=1e-6)


def test_offset_and_noise_are_as_set(patient):
  scan = scan_of(patient, offset_hu=15.0, noise_hu=20.0)
  voxels, solid = muscle(scan, patient)
  values = voxels[solid].astype(float)
  # Standard error 0.3 HU; 50 HU is the patient's muscle.
  assert values.mean() == pytest.approx(65.0, abs=1.5)
  doubled, solid = muscle(scan_of(patient, noise_hu=40.0), patient)
  ratio = doubled[solid].std() / values.std()
  assert ratio == pytest.approx(2.0, rel=0.05)
  # The stub is thinner than 30 cm of water, the bowl below one.
  assert 8.0 < values.std() < 20.0


def test_thick_patients_are_noisy(patient, stub_anatomy):
  wide = dataclasses.replace(patient, hu=patient.hu.copy())
  wide.hu[(wide.hu == -1000)] = 0
  thin, solid = muscle(scan_of(patient), patient)
  thick, same = muscle(scan_of(wide), patient)
  assert thick[same].std() > 1.3 * thin[solid].std()


def test_kernels_differ_in_noise_colour_and_edges(patient):
  frequency, edge = {}, {}
  for kernel in ("smooth", "standard", "bone"):
    voxels, _ = muscle(scan_of(patient, kernel=kernel), patient)
    part = voxels[4:36, 70:100, 4:20].astype(float)
    assert np.ptp(part) > 0
    power = np.abs(np.fft.fft2(part - part.mean((0, 1)), axes=(0, 1))) ** 2
    u, v = (np.fft.fftfreq(n)[..., None] for n in part.shape[:2])
    radius = np.hypot(u[:, None], v[None])
    frequency[kernel] = float((power * radius).sum() / power.sum())
    quiet = scan_of(patient, kernel=kernel, noise_hu=0.01, field_mm=100.0)
    edge[kernel] = int(reorient(quiet.image, "RAS").voxels.max())
  assert frequency["smooth"] < 0.9 * frequency["standard"]
  assert frequency["standard"] < 0.9 * frequency["bone"]
  # Only the bone kernel overshoots at the cortex.
  assert edge["bone"] > edge["standard"] + 15
  assert edge["standard"] <= 420 + 5, "brighter than the patient"


def test_thick_slices_blur_the_end_plates(patient):
  steep = {}
  for thick in (2.0, 6.0):
    scan = scan_of(patient, slice_mm=thick, step_mm=1.0, noise_hu=0.01)
    image = reorient(scan.image, "RAS")
    centre = image.grid.to_voxel(np.array([patient.centres[20]]))[0]
    x, y = np.rint(centre[:2]).astype(int)
    line = image.voxels[x, y].astype(float)
    steep[thick] = np.abs(np.diff(line)).max()
  assert steep[6.0] < 0.6 * steep[2.0]


def test_slices_that_overlap_share_noise(patient):
  def likeness(step):
    scan = scan_of(patient, slice_mm=3.0, step_mm=step, centred_on="body")
    part = reorient(scan.image, "RAS").voxels[40:60, 80:95].astype(float)
    part = part - part.mean((0, 1))
    return float((part[..., 1:] * part[..., :-1]).mean() / part.var())

  assert likeness(3.0) < 0.15
  assert 0.4 < likeness(1.5) < 0.75


def test_contrast_agent_and_voltage(patient):
  def vessel(**settings):
    image = reorient(scan_of(patient, noise_hu=0.01, **settings).image, "RAS")
    point = image.grid.to_voxel(np.array([[-12.0, 10.0, 760.0]]))[0]
    return int(image.voxels[tuple(np.rint(point).astype(int))])

  assert vessel() == pytest.approx(45, abs=3)
  assert vessel(contrast_hu=200.0) == pytest.approx(245, abs=6)
  # Iodine is brighter at 100 kV.
  assert vessel(contrast_hu=200.0, kvp=100) == pytest.approx(269, abs=6)


def test_round_field_of_view_and_limits(patient):
  scan = scan_of(patient, padding_hu=-2000, metal=True, noise_hu=60.0)
  voxels, labels = scan.image.voxels, scan.labels.voxels
  assert voxels.dtype == np.int16
  assert (voxels[[0, 0, -1, -1], [0, -1, 0, -1]] == -2000).all()
  round_share = float((voxels > -2000).mean())
  assert round_share == pytest.approx(np.pi / 4, abs=0.01)
  assert voxels[voxels > -2000].min() >= -1024
  assert voxels.max() == 3071, "no metal, or not clipped"
  assert (labels[voxels == -2000] == 0).all()


def test_metal_throws_streaks(patient):
  plain = scan_of(patient, noise_hu=0.01)
  metal = scan_of(patient, noise_hu=0.01, metal=True)
  assert plain.image.grid.same_as(metal.image.grid)
  difference = metal.image.voxels.astype(int) - plain.image.voxels
  away = (metal.image.voxels < 1500) & (np.abs(difference) < 1500)
  changed = np.abs(difference) * away
  assert (changed > 50).sum() > 500, "no streaks beside the metal"
  np.testing.assert_array_equal(plain.labels.voxels, metal.labels.voxels)


def test_table_lies_under_the_patient(patient):
  def above_air(table):
    scan = scan_of(
      patient, table=table, centred_on="body", field_mm=340.0, noise_hu=0.01
    )
    image = reorient(scan.image, "RAS").voxels
    return (image[:, :20] > -960).mean(), (image[:, -20:] > -960).mean()

  back, front = above_air("back"), above_air("front")
  assert back[0] > 0.05 > back[1]
  assert front[1] > 0.05 > front[0]


def test_cut_codes_are_found_on_any_axis_order():
  labels = np.zeros((4, 5, 6), np.uint8)
  labels[1, 2, 0], labels[2, 2, 3], labels[2, 3, 5] = 22, 21, 20
  labels[0, 1, 3] = 19  # at the side: not cut by an end
  volume = Volume(labels, np.eye(4))
  for codes in ("RAS", "PIR", "SLA"):
    assert cut_codes(reorient(volume, codes)) == {20, 22}


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_every_domain_gives_a_ct(domain, stub_anatomy):
  rng = np.random.default_rng(5)
  protocol = dataclasses.replace(
    draw_protocol(domain, rng), matrix=96, step_mm=3.0, slice_mm=3.0
  )
  patient = stub_anatomy(*protocol.span, 3.0)
  scan = acquire(patient, protocol, rng)
  assert check_hounsfield(scan.image).verdict == "ok"
  assert set(np.unique(scan.labels.voxels)) <= set(np.unique(patient.labels))
  assert len(np.unique(scan.labels.voxels)) > 2
