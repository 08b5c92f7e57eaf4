# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From a CT of any geometry to a mask on it, with the network known."""

from __future__ import annotations

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vf_jax.errors import InputError
from vf_jax.evaluate.metrics.overlap import dice
from vf_jax.infer import predictor
from vf_jax.labels import BY_NAME
from vf_jax.models.decoders.numbering import VERTEBRAE
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.volume import Grid, Volume, network_grid


def rotation(degrees, axis):
  a, b = [i for i in range(3) if i != axis]
  turn = np.eye(3)
  angle = np.deg2rad(degrees)
  turn[[a, a, b, b], [a, b, a, b]] = (
    np.cos(angle),
    -np.sin(angle),
    np.sin(angle),
    np.cos(angle),
  )
  return turn


def frozen(matrix):
  return tuple(map(tuple, matrix.tolist()))


OBLIQUE = frozen(rotation(14, 0) @ rotation(-9, 1) @ rotation(20, 2))
# Gantry tilt: each higher slice lies further to the front.
SHEAR = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.25), (0.0, 0.0, 1.0))
GEOMETRIES = {
  "RAS": ("RAS", (2.0, 2.0, 2.0), None),
  "PIR": ("PIR", (1.5, 1.2, 3.0), None),
  "PSR, left-handed": ("PSR", (1.5, 1.5, 3.0), None),
  "thick slices": ("LPS", (0.5, 0.5, 3.0), None),
  "oblique": ("LPS", (1.4, 1.4, 2.5), OBLIQUE),
  "sheared": ("RAS", (1.3, 1.3, 2.5), SHEAR),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_mask_and_centres_are_right_in_any_geometry(
  name, oracle, make_ct, spine
):
  volume, truth = make_ct(*GEOMETRIES[name])
  before = volume.voxels.copy()
  result = oracle(volume, "case")
  assert result.mask.shape == volume.voxels.shape
  assert result.mask.dtype == np.uint8
  assert result.grid.same_as(volume.grid, atol=0)
  assert [v.level for v in result.vertebrae] == list(spine.levels)
  for v, centre in zip(result.vertebrae, spine.centres, strict=True):
    assert v.code == BY_NAME[v.level].code
    share = dice(result.mask == v.code, truth == v.code)
    assert share > 0.95, f"{v.level}: Dice {share}"
    np.testing.assert_allclose(v.centre_mm, centre, atol=0.5)
  np.testing.assert_array_equal(volume.voxels, before)


def test_the_left_handed_case_is_left_handed(make_ct):
  volume, _ = make_ct(*GEOMETRIES["PSR, left-handed"])
  upright, _ = make_ct(*GEOMETRIES["RAS"])
  assert np.linalg.det(volume.affine[:3, :3]) < 0
  assert np.linalg.det(upright.affine[:3, :3]) > 0


@pytest.mark.parametrize("name", ["thick slices", "sheared"])
def test_measures_are_those_of_the_native_voxels(name, oracle, make_ct):
  volume, truth = make_ct(*GEOMETRIES[name])
  result = oracle(volume, "case")
  voxel_ml = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
  for v in result.vertebrae:
    own = result.mask == v.code
    assert v.volume_ml == pytest.approx(own.sum() * voxel_ml)
    assert v.mean_hu == pytest.approx(volume.voxels[own].mean())
    assert v.volume_ml == pytest.approx(
      (truth == v.code).sum() * voxel_ml, rel=0.05
    )
  assert np.ptp([v.mean_hu for v in result.vertebrae]) > 200


def test_only_the_vertebra_that_the_scan_cuts_is_incomplete(
  oracle, make_ct, spine
):
  for name in ("RAS", "PIR"):
    volume, truth = make_ct(*GEOMETRIES[name])
    lowest = truth == BY_NAME[spine.levels[-1]].code
    axis = int(np.argmax(np.abs(volume.affine[2, :3])))
    assert np.take(lowest, [0, -1], axis=axis).any()
    result = oracle(volume, "case")
    assert [v.complete for v in result.vertebrae] == [True] * 4 + [False]


@pytest.mark.parametrize("name", ["RAS", "PIR", "oblique"])
def test_a_piece_of_a_vertebra_whose_body_is_outside_has_its_level(
  name, oracle, make_ct, spine
):
  """The scan ends 3 mm below the centre of the first body."""
  volume, truth = make_ct(*GEOMETRIES[name])
  axis = int(np.argmax(np.abs(volume.affine[2, :3])))
  below = spine.centres[:1] - (0, 0, 3)
  row = int(volume.grid.to_voxel(below)[0, axis])
  headward = volume.affine[2, axis] > 0
  kept = slice(0, row) if headward else slice(row + 1, None)
  inside = tuple(kept if a == axis else slice(None) for a in range(3))
  affine = volume.affine.copy()
  corner = [[(kept.start if a == axis else 0) for a in range(3)]]
  affine[:3, 3] = volume.grid.to_world(np.array(corner))[0]
  short = Volume(np.ascontiguousarray(volume.voxels[inside]), affine)
  result = oracle(short, "case")
  assert [v.level for v in result.vertebrae] == list(spine.levels)
  piece = result.vertebrae[0]
  assert not piece.complete
  assert "outside the scan" in piece.partial["height_anterior_mm"]
  assert piece.confidence == result.vertebrae[1].confidence
  for v in result.vertebrae:
    assert dice(result.mask == v.code, truth[inside] == v.code) > 0.9
  # Whether it has a rib is not in view.
  assert result.abstained
  assert any("to count from" in note for note in result.warnings)


def test_a_cut_at_the_side_counts_too(oracle, make_ct, spine):
  """Only the spinous processes, far behind, leave the scan."""
  volume, _ = make_ct()
  first = round(volume.grid.to_voxel(spine.centres[:1] - (0, 30, 0))[0, 1])
  affine = volume.affine.copy()
  affine[:3, 3] = volume.grid.to_world(np.array([[0, first, 0]]))[0]
  result = oracle(
    Volume(np.ascontiguousarray(volume.voxels[:, first:]), affine), "case"
  )
  assert [v.level for v in result.vertebrae] == list(spine.levels)
  assert not any(v.complete for v in result.vertebrae)


@pytest.mark.parametrize("name", ["RAS", "PIR"])
def test_padding_is_no_part_of_the_scan(name, oracle, make_ct):
  """Blank slices at every side, as in a patch filled up to a cube."""
  volume, _ = make_ct(*GEOMETRIES[name])
  axis = int(np.argmax(np.abs(volume.affine[2, :3])))
  rows = volume.voxels.shape[axis]
  kept = (slice(None),) * axis + (slice(rows // 5, rows - rows // 5),)
  start = [[rows // 5 if a == axis else 0 for a in range(3)]]
  affine = volume.affine.copy()
  affine[:3, 3] = volume.grid.to_world(np.array(start))[0]
  short = Volume(np.ascontiguousarray(volume.voxels[kept]), affine)
  margins = ((3, 1), (0, 5), (2, 9))
  begin = -np.array([margins])[..., 0]
  affine = affine.copy()
  affine[:3, 3] = short.grid.to_world(begin)[0]
  padded = np.pad(short.voxels, margins, constant_values=-3)
  result = oracle(Volume(padded, affine), "case")
  expected = oracle(short, "case")
  assert not all(v.complete for v in expected.vertebrae)
  assert result.vertebrae == expected.vertebrae
  assert result.warnings == expected.warnings
  np.testing.assert_array_equal(result.mask, np.pad(expected.mask, margins))
  np.testing.assert_array_equal(result.grid.affine, affine)


def test_a_scan_that_is_all_padding_but_a_slice_is_refused(oracle, make_ct):
  volume, _ = make_ct()
  voxels = volume.voxels.copy()
  voxels[:, :, 1:] = -1000
  with pytest.raises(InputError, match="slices of one value"):
    oracle(Volume(voxels, volume.affine), "case")


def test_a_lesion_has_its_place_size_and_level(oracle, make_ct, spine):
  for name in ("RAS", "oblique"):
    volume, _ = make_ct(*GEOMETRIES[name])
    (lesion,) = oracle(volume, "case").lesions
    np.testing.assert_allclose(lesion.centre_mm, spine.lesion, atol=0.1)
    np.testing.assert_allclose(lesion.size_mm, spine.lesion_size, rtol=1e-3)
    assert lesion.level == "L2"
    # The heat is blended as logits: 1 / (1 + exp(-3)).
    assert lesion.score == pytest.approx(0.9526, abs=1e-3)


def test_a_box_in_no_vertebra_is_a_candidate(
  oracle, make_ct, spine, monkeypatch
):
  volume, _ = make_ct(*GEOMETRIES["RAS"])
  aside = np.add(spine.lesion, (30.0, 0.0, 0.0))
  monkeypatch.setattr(type(spine), "lesion", property(lambda self: aside))
  result = oracle(volume, "case")
  assert result.lesions == ()
  box = result.candidates[0]
  np.testing.assert_allclose(box.centre_mm, aside, atol=0.1)
  assert (box.level, box.share) == (None, None)
  assert box.score == pytest.approx(0.9526, abs=1e-3)


def test_arrays_of_any_layout_and_dtype_give_the_same(oracle, make_ct):
  volume, _ = make_ct()
  want = oracle(volume, "case").mask
  voxels = volume.voxels
  wide = np.zeros((voxels.shape[0] * 2, *voxels.shape[1:]), np.int16)
  wide[::2] = voxels
  forms = {
    "fortran": np.asfortranarray(voxels),
    "strided": wide[::2],
    "float32": voxels.astype(np.float32),
    "int32": voxels.astype(np.int32),
  }
  for name, form in forms.items():
    found = oracle(Volume(form, volume.affine), "case").mask
    np.testing.assert_array_equal(found, want, err_msg=name)


def test_values_beyond_bone_do_not_wrap(oracle, make_ct):
  """Metal of 70000 HU in a float file stays the densest thing there is."""
  volume, _ = make_ct()
  voxels = volume.voxels.astype(np.float32)
  voxels[2:4, 2:4, 2:4] = 70000
  image = oracle.network.show(Volume(voxels, volume.affine), volume.grid)
  assert image.max() == 3071
  assert image[2:4, 2:4, 2:4].min() == 3071


def test_a_scan_without_bone_gives_an_empty_result(oracle, make_ct):
  volume, _ = make_ct()
  soft = Volume(np.minimum(volume.voxels, 80), volume.affine)
  # A clipped picture is refused, so the soft tissue keeps its noise.
  shaken = soft.voxels.copy()
  bone = volume.voxels > 80
  shaken[bone] = np.random.default_rng(0).normal(40, 8, bone.sum())
  result = oracle(Volume(shaken, volume.affine), "case")
  assert not result.mask.any()
  assert result.vertebrae == ()
  assert result.lesions == ()
  assert result.run["windows"]["run"] == 0
  assert "No vertebra was found in this scan." in result.warnings
  assert any("as dense as bone" in note for note in result.warnings)


def recoded(volume, how):
  hu = volume.voxels.astype(np.int32)
  if how == "constant":
    hu = np.zeros_like(hu)
  elif how == "windowed":
    hu = np.clip((hu + 160) * 255 // 400, 0, 255)
  elif how == "offset":
    hu = hu + 1024
  elif how == "normalised":
    return Volume((hu / 1000).astype(np.float32), volume.affine)
  return Volume(hu.astype(np.int16), volume.affine)


@pytest.mark.parametrize(
  ("how", "words"),
  [
    ("constant", "every voxel is 0"),
    ("windowed", "windowed"),
    ("offset", "-1024"),
    ("normalised", "normalised"),
  ],
)
def test_what_is_no_hounsfield_is_refused(how, words, oracle, make_ct):
  volume, _ = make_ct()
  with pytest.raises(InputError, match=words):
    oracle(recoded(volume, how), "case")


def test_rejected_and_unsure_vertebrae_are_told(oracle, make_ct, monkeypatch):
  chain = type(oracle.network).chain

  def doubtful(self, *args):
    levels, sure = chain(self, *args)
    levels[0, 2] = -1
    sure[0, 3] = 0.3
    return levels, sure

  monkeypatch.setattr(type(oracle.network), "chain", doubtful)
  # Even neighbours that reach far must not paint what was rejected.
  monkeypatch.setattr("vf_jax.infer.native._EXTEND_MM", 12.0)
  volume, truth = make_ct()
  result = oracle(volume, "case")
  assert [v.level for v in result.vertebrae] == ["T12", "L1", "L3", "L4"]
  assert not (result.mask[truth == BY_NAME["L2"].code]).any()
  assert result.warnings == (
    "1 vertebra-like region(s) were rejected by the numbering.",
    "The level of L3 is uncertain (confidence below 50%); the numbering may "
    "be shifted.",
  )


@pytest.mark.parametrize("names", ["T12 T13 L1 L2 L3", "L3 L4 L5 L6"])
def test_row_62_rare_levels_reach_the_result(
  oracle, make_ct, monkeypatch, names
):
  chain = type(oracle.network).chain
  order = {v.name: i for i, v in enumerate(VERTEBRAE)}
  given = [order[name] for name in names.split()]

  def rare(self, *args):
    levels, sure = chain(self, *args)
    levels[0, :5] = -1
    levels[0, : len(given)] = given
    return levels, sure

  monkeypatch.setattr(type(oracle.network), "chain", rare)
  result = oracle(make_ct()[0], "case")
  assert [v.level for v in result.vertebrae] == names.split()
  codes = {BY_NAME[name].code for name in names.split()}
  assert set(np.unique(result.mask)) == codes | {0}
  assert not result.abstained
  # Neither rare level is taken for a gap between its neighbours.
  assert np.isfinite([v.crush_ratio for v in result.vertebrae]).all()


def test_row_63_an_arch_not_yet_joined_stays_with_its_body(
  oracle, make_ct, spine, monkeypatch
):
  """Open synchondroses; the size of a newborn is beyond the network."""
  monkeypatch.setattr(type(spine), "ARCH_AT", (0, -31, -3))
  grid = make_ct()[0].grid
  places = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
  places = places.reshape(*grid.shape, 3)
  noise = np.random.default_rng(7).normal(0, 12, grid.shape)
  hu = (spine.hounsfield(places) + noise).astype(np.int16)
  truth = spine.codes_at(places)
  result = oracle(Volume(hu, grid.affine), "case")
  assert [v.level for v in result.vertebrae] == list(spine.levels)
  for v in result.vertebrae:
    own = truth == v.code
    assert ndimage.label(own, np.ones((3, 3, 3)))[1] == 2
    assert dice(result.mask == v.code, own) > 0.95


def test_row_55_left_and_right_exchanged_is_not_noticed(
  oracle, make_ct, spine, monkeypatch
):
  """Equal levels, and silence (docs/predict.md): a spine is symmetric."""
  volume, _ = make_ct()
  straight = oracle(volume, "case")
  centres = type(spine).centres.fget
  # The network sees the spine where the mirror shows it.
  monkeypatch.setattr(
    type(spine),
    "centres",
    property(
      lambda self: centres(self) * (-1, 1, 1) + (2 * self.centre[0], 0, 0)
    ),
  )
  voxels = np.ascontiguousarray(volume.voxels[::-1])
  mirrored = oracle(Volume(voxels, volume.affine), "case")
  assert mirrored.warnings == straight.warnings == ()
  assert not mirrored.abstained
  for found, other in zip(mirrored.vertebrae, straight.vertebrae, strict=True):
    assert found.level == other.level
    assert found.confidence == other.confidence
  np.testing.assert_array_equal(mirrored.mask[::-1], straight.mask)


@pytest.mark.parametrize(("doubted", "abstains"), [(1, False), (3, True)])
def test_a_scan_abstains_if_more_than_its_ends_are_doubtful(
  oracle, make_ct, monkeypatch, doubted, abstains
):
  chain = type(oracle.network).chain

  def doubtful(self, *args):
    levels, sure = chain(self, *args)
    sure[0, :doubted] = 0.6
    return levels, sure

  monkeypatch.setattr(type(oracle.network), "chain", doubtful)
  result = oracle(make_ct()[0], "case")
  assert len(result.vertebrae) == 5
  assert result.abstained is abstains
  told = any("all levels may be shifted" in note for note in result.warnings)
  assert told is abstains


def test_a_scan_without_a_place_to_count_from_abstains(
  oracle, make_ct, monkeypatch
):
  chain = type(oracle.network).chain

  def without_border(self, *args):
    levels, sure = chain(self, *args)
    levels[0, 1] = -1  # L1, after which T12 says nothing
    return levels, sure

  volume, _ = make_ct()
  assert not oracle(volume, "case").abstained
  monkeypatch.setattr(type(oracle.network), "chain", without_border)
  result = oracle(volume, "case")
  assert result.abstained
  assert any("to count from" in note for note in result.warnings)


def test_a_scan_that_looks_turned_back_to_front_abstains(
  oracle, make_ct, monkeypatch
):
  # As if bodies had to lie further before their arches than they do.
  monkeypatch.setattr("vf_jax.infer.plausibility._AHEAD_MM", 24.0)
  result = oracle(make_ct("PIR", (1.5, 1.2, 3.0))[0], "case")
  assert result.abstained
  assert any("back to front" in note for note in result.warnings)


def test_faults_of_the_file_are_kept_in_the_result(oracle, make_ct):
  volume, _ = make_ct()

  @dataclasses.dataclass(frozen=True, eq=False)
  class Marked(Volume):
    @property
    def warnings(self):
      return ("made of cheese.",)

  result = oracle(Marked(volume.voxels, volume.affine), "case")
  assert result.warnings[0] == "made of cheese."


def test_the_real_network_runs_through_and_repeats_itself(untrained, make_ct):
  """Random parameters: only form and repetition can be right."""
  volume, _ = make_ct("LPS", (3.0, 3.0, 3.0))
  one = untrained(volume, "case", {"who": "test"})
  two = untrained(volume, "case")
  np.testing.assert_array_equal(one.mask, two.mask)
  assert repr(one.vertebrae) == repr(two.vertebrae)  # NaN is no NaN
  assert one.mask.shape == volume.voxels.shape
  assert {v.code for v in one.vertebrae} == set(np.unique(one.mask)) - {0}
  orders = [BY_NAME[v.level].order for v in one.vertebrae]
  assert len(orders) > 0
  assert orders == sorted(set(orders))
  for v in one.vertebrae:
    assert 0 < v.confidence <= 1
    assert v.volume_ml > 0
  assert one.run["who"] == "test"
  assert one.run["checkpoint_sha256"] == untrained.digest
  assert one.run["config"] == untrained.config.to_dict()
  assert set(one.run["seconds"]) == {"resample", "network", "decode"}


def test_scans_of_any_shape_need_one_compilation(untrained, make_ct):
  for geometry in (("LPS", (3.0, 3.0, 3.0)), ("RAS", (2.0, 2.0, 2.0))):
    assert untrained(make_ct(*geometry)[0], "case").vertebrae
  for name in ("maps", "evidence", "chain"):
    assert getattr(untrained.network, name)._cache_size() == 1, name


def test_sweeping_equals_one_forward_pass_of_the_network(untrained, make_ct):
  """A scan of one window: what the network says, seen from outside."""
  volume, _ = make_ct()
  image = np.ascontiguousarray(volume.voxels[4:36, 6:38, 20:52].swapaxes(0, 2))
  spacing = np.array([0.7, 0.7, 2.5], np.float32)
  found = untrained.network.sweep(image, spacing)
  model = VertebraFormer(untrained.config.model)
  want = jax.jit(model.apply)(
    {"params": untrained.params},
    jnp.asarray(image[None], jnp.float32),
    jnp.asarray(spacing[None]),
  )
  assert (found.windows, found.skipped) == (1, 0)
  threshold = untrained.config.predict.threshold
  foreground = np.asarray(found.probability > threshold)
  assert 0 < foreground.sum() < foreground.size
  np.testing.assert_allclose(
    found.offsets, want.offsets[0][foreground], rtol=1e-3, atol=1e-4
  )
  np.testing.assert_allclose(
    found.probability, jax.nn.sigmoid(want.logits[0]), rtol=2e-3, atol=1e-5
  )
  np.testing.assert_allclose(
    found.lesion_heat, jax.nn.sigmoid(want.lesions.heat[0]), rtol=1e-3
  )
  np.testing.assert_allclose(
    found.lesion_box[..., 3:], want.lesions.log_size[0], rtol=1e-3, atol=1e-4
  )


def test_every_level_the_numbering_gives_has_a_code():
  assert len({v.code for v in VERTEBRAE}) == len(VERTEBRAE) == 26


def test_a_scan_whose_box_would_fill_the_memory_is_refused(oracle):
  # A thread of voxels along the diagonal of a room.
  affine = np.diag([10.0, 10.0, 10.0, 1.0])
  affine[:3, :3] = rotation(45, 0) @ rotation(45, 1) * 10.0
  voxels = np.full((2, 2, 600), -1000, np.int16)
  voxels[1, 1] = -999  # or most of it were padding
  voxels[0, 0, :300] = 40
  voxels[0, 0, :30] = 700
  with pytest.raises(InputError, match="mm large"):
    oracle(Volume(voxels, affine), "thread")


def test_row_43_the_grid_of_a_whole_body_is_below_the_limit():
  body = Grid((1024, 1024, 3500), np.diag([0.5, 0.5, 0.5, 1.0]))
  shape = network_grid(body, 2.0).shape
  assert np.prod(shape) < predictor._MOST_VOXELS


def test_a_predictor_that_was_used_can_be_sent_to_another_process(oracle):
  used = predictor.Predictor(oracle.config, oracle.params, oracle.digest)
  assert callable(used.network.maps)
  sent = pickle.loads(pickle.dumps(used))
  assert (sent.config, sent.digest) == (used.config, used.digest)
  assert callable(sent.network.maps)


def test_neighbours_that_share_a_window_are_read_where_they_lie(
  oracle, make_ct, monkeypatch
):
  """A quarter of this window is 8 voxels."""
  volume, _ = make_ct()
  grid = network_grid(volume.grid, oracle.config.model.spacing_mm)
  image = oracle.network.show(volume, grid)
  centres = np.array([[30.0, 20.0, 20.0], [24.0, 22.0, 21.0]])
  asked = []
  look = type(oracle.network).evidence

  def counting(self, params, block, spacing, points, mask):
    asked.append(mask.sum())
    return look(self, params, block, spacing, points, mask)

  monkeypatch.setattr(type(oracle.network), "evidence", counting)
  rows, points_mm, mask = oracle.network._read(image, None, centres)
  assert asked == [2]
  np.testing.assert_array_equal(mask[0], np.arange(mask.shape[1]) < 2)
  want = image[tuple(centres.astype(int).T)]
  assert want[0] != want[1]
  np.testing.assert_array_equal(rows[0, :2, 0], want)
  np.testing.assert_allclose(points_mm[0, :2], 2 * centres)


def test_evidence_of_neighbours_is_in_their_order(untrained, make_ct):
  image = untrained.network.show(make_ct()[0], make_ct()[0].grid)
  spacing = np.array([2.0, 2.0, 2.0], np.float32)
  pair = np.array([[30.0, 20.0, 20.0], [24.0, 22.0, 21.0]])
  together, _, _ = untrained.network._read(image, spacing, pair)
  # The same window, as its middle is the same.
  turned, _, _ = untrained.network._read(image, spacing, pair[::-1])
  assert np.abs(together[0, 0] - together[0, 1]).max() > 1e-3
  np.testing.assert_array_equal(together[0, :2], turned[0, 1::-1])
