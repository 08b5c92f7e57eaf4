# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Files in, a folder out: complete or not there at all."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import resource

import nibabel
import numpy as np
import pytest

from vf_jax import cli
from vf_jax.errors import InputError, OutputError
from vf_jax.evaluate.metrics.overlap import dice
from vf_jax.hounsfield import _OFFSETS
from vf_jax.infer.cases import check_target, predict_file
from vf_jax.infer.predictor import Predictor
from vf_jax.io.centroids import read_centroids
from vf_jax.io.ct import InputOptions, case_name
from vf_jax.io.lesions import read_lesions
from vf_jax.io.nifti import read
from vf_jax.io.vertebrae import read_vertebrae_csv
from vf_jax.labels import BY_CODE, BY_NAME
from vf_jax.report.page import write_report

FILES = {
  "_seg-vert_msk.nii.gz",
  "_seg-vb_ctd.json",
  "_lesions.json",
  "_vertebrae.csv",
  "_vertebrae.json",
  "_report.html",
  "_overview.png",
}
SHEAR = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.25), (0.0, 0.0, 1.0))


def names_of(case):
  return {f"{case}{suffix}" for suffix in FILES} | {"run.json"}


def save(path, volume, **changes):
  """Writes a CT with nibabel, not with our own writer."""
  image = nibabel.Nifti1Image(
    np.asarray(changes.get("voxels", volume.voxels)), None
  )
  image.header.set_sform(volume.affine, code=1)
  image.header.set_qform(None, code=0)
  image.header.set_zooms(volume.spacing)
  image.header.set_xyzt_units("mm")
  if "scanner" in changes:
    image.header.set_qform(volume.affine, code=1)
    image.header.set_sform(volume.affine, code=2)
  nibabel.save(image, path)
  return path


def no_report(path, volume, result):
  path.write_text("page")
  name = path.name.removesuffix("_report.html")
  path.with_name(f"{name}_overview.png").write_bytes(b"picture")


@pytest.fixture(scope="module")
def ct(tmp_path_factory, make_ct):
  """A CT of 3 mm, small and quick."""
  volume, _ = make_ct("LPS", (3.0, 3.0, 3.0))
  return save(tmp_path_factory.mktemp("in") / "sub-1_ct.nii.gz", volume)


@pytest.fixture(scope="module")
def written(tmp_path_factory, ct, oracle):
  """The folder of a case after a prediction, and its result."""
  out = tmp_path_factory.mktemp("out") / "new" / "deep"
  result = predict_file(oracle, ct, out, write_report)
  assert os.listdir(out) == ["sub-1"]
  return out / "sub-1", result


@pytest.fixture
def unasked(oracle):
  """A predictor that must not be asked."""

  class Unasked(Predictor):
    def __call__(self, *args):
      raise AssertionError("it predicted before it looked")

  return Unasked(config=oracle.config, params={}, digest="")


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("sub-verse004_ct.nii.gz", "sub-verse004"),
    ("/a/b/scan.nii", "scan"),
    ("SCAN.NII.GZ", "SCAN"),
    ("a.b_ct.nii", "a.b"),
    ("a_ct_ct.nii.gz", "a_ct"),
    ("_ct.nii.gz", "case"),
    (".nii.gz", "case"),
    ("...nii.gz", "case"),
    ("..hidden.nii", "hidden"),
    ("-x.nii.gz", "-x"),
    ("Wirbel säule 1.nii.gz", "Wirbel säule 1"),
    ("folder/", "folder"),
    ("a/b/..", "a"),
    ("scan.mha", "scan"),
    ("export.ZIP", "export"),
    ("many.dcm", "many"),
  ],
)
def test_the_name_of_a_case(path, name):
  assert case_name(path) == name


def test_a_case_has_all_its_files_and_no_other(written):
  folder, _ = written
  assert set(os.listdir(folder)) == names_of("sub-1")
  page = (folder / "sub-1_report.html").read_text("utf-8")
  assert "L2" in page
  assert page.count("<img") >= 1


GEOMETRIES = {
  "RAS": ("RAS", (2.0, 2.0, 2.0), None),
  "PIR": ("PIR", (1.5, 1.2, 3.0), None),
  "PSR": ("PSR", (1.5, 1.5, 3.0), None),
  "sheared": ("RAS", (1.3, 1.3, 2.5), SHEAR),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_files_lie_exactly_on_the_input(name, tmp_path, oracle, make_ct, spine):
  volume, truth = make_ct(*GEOMETRIES[name])
  more = {"scanner": True} if name == "PIR" else {}
  path = save(tmp_path / "x_ct.nii.gz", volume, **more)
  result = predict_file(oracle, path, tmp_path, no_report)
  image = nibabel.load(path)
  mask = nibabel.load(tmp_path / "x" / "x_seg-vert_msk.nii.gz")
  assert mask.shape == image.shape
  assert mask.get_data_dtype() == np.uint8
  assert mask.affine.tobytes() == image.affine.tobytes()
  for field in ("sform_code", "qform_code", "pixdim"):
    np.testing.assert_array_equal(mask.header[field], image.header[field])
  codes = np.asarray(mask.dataobj)
  np.testing.assert_array_equal(codes, result.mask)
  for level in spine.levels:
    code = BY_NAME[level].code
    assert dice(codes == code, truth == code) > 0.95

  centroids = read_centroids(
    tmp_path / "x" / "x_seg-vb_ctd.json", read(path).grid
  )
  assert centroids.warnings == ()
  assert [v.name for v in centroids.levels] == list(spine.levels)
  np.testing.assert_allclose(centroids.points_mm, spine.centres, atol=0.5)
  head, *items = json.loads((tmp_path / "x" / "x_seg-vb_ctd.json").read_text())
  assert tuple(head["direction"]) == nibabel.aff2axcodes(image.affine)
  for item, centre in zip(items, spine.centres, strict=True):
    place = np.array([item["X"], item["Y"], item["Z"]])
    world = nibabel.affines.apply_affine(image.affine, place)
    np.testing.assert_allclose(world, centre, atol=0.5)
    assert codes[tuple(np.round(place).astype(int))] == item["label"]


def test_tables_say_what_the_mask_says(written, ct, spine):
  folder, result = written
  image = nibabel.load(ct)
  hu = np.asarray(image.dataobj)
  codes = np.asarray(nibabel.load(folder / "sub-1_seg-vert_msk.nii.gz").dataobj)
  rows = read_vertebrae_csv(folder / "sub-1_vertebrae.csv")
  assert [row.level for row in rows] == list(spine.levels)
  assert [row.complete for row in rows] == [True, True, True, True, False]
  for row in rows:
    own = codes == row.code
    assert row.volume_ml == pytest.approx(own.sum() * 0.027, abs=0.01)
    assert row.mean_hu == pytest.approx(hu[own].mean(), abs=0.1)
    assert row.confidence == pytest.approx(0.9)
  with (folder / "sub-1_vertebrae.csv").open(newline="") as file:
    plain = list(csv.DictReader(file))
  assert [row["complete"] for row in plain] == ["yes"] * 4 + ["no"]
  (lesion,) = read_lesions(folder / "sub-1_lesions.json")
  np.testing.assert_allclose(lesion.centre_mm, spine.lesion, atol=0.2)
  np.testing.assert_allclose(lesion.size_mm, spine.lesion_size, atol=0.1)
  assert lesion.level == "L2"
  both = read_lesions(folder / "sub-1_lesions.json", candidates=True)
  assert len(both) == 1 + len(result.candidates)
  assert result.lesions[0].score == pytest.approx(lesion.score, abs=1e-3)


def strict_json(path):
  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def test_run_json_says_how_it_was_made(written, ct, oracle):
  folder, _ = written
  run = strict_json(folder / "run.json")
  assert run["state"] == "done"
  assert run["input"] == str(ct)
  assert run["warnings"] == []
  assert run["checkpoint_sha256"] == oracle.digest
  assert run["config"] == oracle.config.to_dict()
  assert run["packages"]["jax"] is not None
  assert run["vf_jax"] == "0.1.0"
  assert run["backend"] == "cpu"
  assert len(run["devices"]) == 8
  assert run["windows"]["run"] > 0
  seconds = run["seconds"]
  assert set(seconds) == {"resample", "network", "decode", "total"}
  assert seconds["total"] >= max(
    seconds["resample"], seconds["network"], seconds["decode"]
  )


def test_equal_inputs_give_equal_files(written, ct, oracle, tmp_path):
  folder, _ = written
  predict_file(oracle, ct, tmp_path, write_report)
  for suffix in FILES - {"_report.html"}:  # the page shows timings
    old = (folder / f"sub-1{suffix}").read_bytes()
    assert (tmp_path / "sub-1" / f"sub-1{suffix}").read_bytes() == old


def test_warnings_of_the_reader_reach_report_and_run(tmp_path, make_ct, oracle):
  volume, _ = make_ct("LPS", (3.0, 3.0, 3.0))
  voxels = volume.voxels.astype(np.float32)
  voxels[:2, 0, 0] = np.nan
  path = save(tmp_path / "n.nii.gz", volume, voxels=voxels)
  result = predict_file(oracle, path, tmp_path, write_report)
  (note,) = result.warnings
  assert "NaN" in note
  assert strict_json(tmp_path / "n" / "run.json")["warnings"] == [note]
  page = (tmp_path / "n" / "n_report.html").read_text("utf-8")
  assert note.split(";")[0].split("(")[0].strip() in page
  assert not np.isnan([v.mean_hu for v in result.vertebrae]).any()


@pytest.mark.parametrize(
  "name",
  ["Wirbel säule 3.nii.gz", "-x.nii.gz", "脊椎.nii.gz", "a<b>&'\".nii.gz"],
)
def test_odd_names_work(name, ct, tmp_path, oracle):
  path = tmp_path / "odd folder ü" / name
  path.parent.mkdir()
  path.write_bytes(ct.read_bytes())
  case = name.removesuffix(".nii.gz")
  out = tmp_path / "aus gabe"
  predict_file(oracle, path, out, write_report)
  assert set(os.listdir(out / case)) == names_of(case)
  assert strict_json(out / case / "run.json")["input"] == str(path)
  page = (out / case / f"{case}_report.html").read_text("utf-8")
  assert "<b>&'" not in page


def shifted(ct, path, by):
  image = nibabel.load(ct)
  voxels = np.asarray(image.dataobj) + np.int16(by)
  nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)
  return path


def test_a_lost_intercept_is_refused_and_mended_by_the_option(
  ct, written, tmp_path, oracle
):
  path = shifted(ct, tmp_path / "sub-1_ct.nii.gz", 1024)
  out = tmp_path / "out"
  with pytest.raises(InputError, match="-1024") as caught:
    predict_file(oracle, path, out, no_report)
  assert caught.value.source == str(path)
  assert caught.value.fix.startswith("--hu-offset -1024")
  assert not out.exists()
  result = predict_file(
    oracle, path, out, no_report, InputOptions(hu_offset=-1024)
  )
  np.testing.assert_array_equal(result.mask, written[1].mask)
  for v, w in zip(result.vertebrae, written[1].vertebrae, strict=True):
    assert v.mean_hu == pytest.approx(w.mean_hu)


@pytest.mark.parametrize("offset", _OFFSETS)
def test_the_option_takes_every_offset_that_is_advised(
  tmp_path, predict, capsys, offset
):
  missing = tmp_path / "missing.nii"
  assert predict(missing, "--out", tmp_path, "--hu-offset", offset) == 3


def test_an_offset_saturates_and_does_not_wrap(tmp_path, make_ct, oracle):
  volume, _ = make_ct("LPS", (3.0, 3.0, 3.0))
  voxels = volume.voxels.astype(np.int16)
  voxels[:2, :2, :2] = 32000
  seen = []
  predict_file(
    oracle,
    save(tmp_path / "x.nii.gz", volume, voxels=voxels - np.int16(1000)),
    tmp_path,
    lambda path, read_volume, result: seen.append(read_volume.voxels),
    InputOptions(hu_offset=1000),
  )
  np.testing.assert_array_equal(seen[0], voxels)
  lowered = voxels - np.int16(100)
  lowered[:2, :2, :2] = 32760
  predict_file(
    oracle,
    save(tmp_path / "y.nii.gz", volume, voxels=lowered),
    tmp_path,
    lambda path, read_volume, result: seen.append(read_volume.voxels),
    InputOptions(hu_offset=100),
  )
  assert seen[1].dtype == np.int16
  assert (seen[1][:2, :2, :2] == 32767).all()


def test_a_centre_outside_the_scan_is_in_the_table_only(
  tmp_path, make_ct, oracle, spine, monkeypatch
):
  """Programs index the CT with ctd.json; a cut body may lie beyond it."""
  volume, _ = make_ct("LPS", (3.0, 3.0, 3.0))
  path = save(tmp_path / "x.nii.gz", volume)
  call = type(oracle).__call__

  def moved(self, *args):
    result = call(self, *args)
    first, *rest, last = result.vertebrae
    x, y, z = last.centre_mm
    first = dataclasses.replace(first, centre_mm=(x, y, z + 160))
    last = dataclasses.replace(last, centre_mm=(x, y, z - 40))
    return dataclasses.replace(result, vertebrae=(first, *rest, last))

  monkeypatch.setattr(type(oracle), "__call__", moved)
  predict_file(oracle, path, tmp_path, no_report)
  centroids = read_centroids(
    tmp_path / "x" / "x_seg-vb_ctd.json", read(path).grid
  )
  assert [v.name for v in centroids.levels] == list(spine.levels[1:-1])
  rows = read_vertebrae_csv(tmp_path / "x" / "x_vertebrae.csv")
  assert [row.level for row in rows] == list(spine.levels)


def test_until_the_end_there_is_only_a_hidden_folder(ct, tmp_path, oracle):
  """What a kill in the middle would leave behind."""
  seen = []

  def spy(path, volume, result):
    seen.extend(os.listdir(tmp_path))
    no_report(path, volume, result)

  predict_file(oracle, ct, tmp_path, spy)
  assert len(seen) == 1
  assert seen[0].startswith(".sub-1.")
  assert seen[0].endswith(".part")
  assert os.listdir(tmp_path) == ["sub-1"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_and_keeps_the_old_result(
  fault, ct, tmp_path, oracle
):
  def fail(path, volume, result):
    raise fault("stop")

  with pytest.raises(fault):
    predict_file(oracle, ct, tmp_path, fail)
  assert os.listdir(tmp_path) == []
  predict_file(oracle, ct, tmp_path, no_report)
  before = {p.name: p.read_bytes() for p in (tmp_path / "sub-1").iterdir()}
  with pytest.raises(fault):
    predict_file(oracle, ct, tmp_path, fail)
  assert os.listdir(tmp_path) == ["sub-1"]
  after = {p.name: p.read_bytes() for p in (tmp_path / "sub-1").iterdir()}
  assert after == before


def test_an_old_result_is_replaced_as_a_whole(ct, tmp_path, oracle):
  predict_file(oracle, ct, tmp_path, no_report)
  table = tmp_path / "sub-1" / "sub-1_vertebrae.csv"
  good = table.read_bytes()
  table.write_text("old")
  (tmp_path / "sub-1" / "sub-1_lesions.json").unlink()
  predict_file(oracle, ct, tmp_path, no_report)
  assert table.read_bytes() == good
  assert set(os.listdir(tmp_path / "sub-1")) == names_of("sub-1")
  assert os.listdir(tmp_path) == ["sub-1"]


def test_a_ct_in_a_folder_of_its_own_name_is_not_destroyed(
  ct, tmp_path, oracle
):
  """BIDS keeps sub-1/sub-1_ct.nii.gz; --out . would replace sub-1."""
  path = tmp_path / "sub-1" / "sub-1_ct.nii.gz"
  path.parent.mkdir()
  path.write_bytes(ct.read_bytes())
  with pytest.raises(InputError, match="holds what vf-jax did not write"):
    predict_file(oracle, path, tmp_path, no_report)
  assert path.read_bytes() == ct.read_bytes()
  assert os.listdir(tmp_path) == ["sub-1"]
  assert os.listdir(path.parent) == ["sub-1_ct.nii.gz"]


def test_a_folder_that_fills_up_meanwhile_is_kept(ct, tmp_path, oracle):
  def slow(path, volume, result):
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1" / "notes.txt").write_text("mine")
    no_report(path, volume, result)

  with pytest.raises(InputError, match=r"notes\.txt"):
    predict_file(oracle, ct, tmp_path, slow)
  assert (tmp_path / "sub-1" / "notes.txt").read_text() == "mine"
  assert os.listdir(tmp_path) == ["sub-1"]


def test_a_file_or_link_in_the_way_is_kept(ct, tmp_path, oracle):
  (tmp_path / "sub-1").write_text("mine")
  with pytest.raises(InputError, match="is in the way"):
    predict_file(oracle, ct, tmp_path, no_report)
  assert (tmp_path / "sub-1").read_text() == "mine"
  (tmp_path / "sub-1").unlink()
  (tmp_path / "sub-1").symlink_to(tmp_path / "nowhere")
  with pytest.raises(InputError, match="is in the way"):
    predict_file(oracle, ct, tmp_path, no_report)
  assert (tmp_path / "sub-1").is_symlink()


def test_an_output_that_is_no_folder_is_refused_before_the_work(
  ct, tmp_path, unasked
):
  (tmp_path / "file").write_text("mine")
  for out in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(InputError, match="is not a folder"):
      predict_file(unasked, ct, out, no_report)
  assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
  ct, tmp_path, unasked, monkeypatch
):
  # Whoever runs the tests as root may write anywhere.
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with pytest.raises(InputError, match="is not writable"):
    predict_file(unasked, ct, tmp_path / "new", no_report)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("below", ["", "out/deep"])
def test_an_output_in_a_closed_folder_is_one_sentence(
  ct, tmp_path, predict, capsys, monkeypatch, below
):
  closed = tmp_path / "closed"
  closed.mkdir()

  # Whoever runs the tests as root may look anywhere.
  def deny(function):
    def denied(path, *args, **options):
      if isinstance(path, str | os.PathLike) and (
        closed in pathlib.Path(path).parents
      ):
        raise PermissionError(13, "Permission denied", os.fspath(path))
      return function(path, *args, **options)

    return denied

  for name in ("stat", "lstat", "mkdir", "scandir"):
    monkeypatch.setattr(os, name, deny(getattr(os, name)))
  access = os.access
  monkeypatch.setattr(
    os, "access", lambda path, mode: path != closed and access(path, mode)
  )
  assert predict(ct, "--out", closed / below) == 3
  said = capsys.readouterr().err.splitlines()
  assert said[0] == (
    f"vf-jax: {closed / below}: {closed} is not writable. "
    "Fix: change its permissions, or --out."
  )
  assert len(said) == 1


@pytest.mark.parametrize("below", ["", "below"])
def test_an_output_of_too_long_a_name_is_refused_before_the_work(
  ct, tmp_path, unasked, predict, capsys, below
):
  out = tmp_path / ("x" * 256) / below
  with pytest.raises(InputError, match="has a name that is too long"):
    predict_file(unasked, ct, out, no_report)
  assert predict(ct, "--out", out) == 3
  assert capsys.readouterr().err.startswith(f"vf-jax: {out}: has a name")
  assert os.listdir(tmp_path) == []


def test_a_case_that_may_not_be_read_is_refused_and_kept(
  ct, tmp_path, unasked, monkeypatch
):
  mine = tmp_path / "sub-1" / "notes.txt"
  mine.parent.mkdir()
  mine.write_text("mine")

  def deny(path):
    raise PermissionError(13, "Permission denied", os.fspath(path))

  with monkeypatch.context() as patch:
    patch.setattr(os, "listdir", deny)
    with pytest.raises(InputError, match="sub-1: cannot be read") as caught:
      predict_file(unasked, ct, tmp_path, no_report)
  assert not isinstance(caught.value, OutputError)  # the others go on
  assert mine.read_text() == "mine"


@contextlib.contextmanager
def small_disk(limit):
  """Files cannot grow beyond `limit` bytes."""
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_gives_one_sentence_and_leaves_nothing(
  ct, tmp_path, oracle
):
  with small_disk(100), pytest.raises(InputError) as caught:
    predict_file(oracle, ct, tmp_path, no_report)
  assert caught.value.source == str(tmp_path / "sub-1")
  assert "cannot be written" in str(caught.value)
  assert ".part" not in str(caught.value)
  assert os.listdir(tmp_path) == []


@pytest.fixture
def predict(oracle, monkeypatch):
  """`vf-jax predict ...` in this process, with the oracle as network."""
  monkeypatch.setattr("vf_jax.infer.predictor.load", lambda path: oracle)
  return lambda *arguments: cli.main(["predict", *map(str, arguments)])


def test_a_refused_file_does_not_stop_the_others(ct, tmp_path, predict, capsys):
  broken = tmp_path / "broken_ct.nii.gz"
  broken.write_bytes(ct.read_bytes()[:2000])
  wrong = shifted(ct, tmp_path / "wrong_ct.nii.gz", 1024)
  other = tmp_path / "last.nii.gz"
  other.write_bytes(ct.read_bytes())
  out = tmp_path / "out"
  code = predict(
    ct, broken, tmp_path / "missing.nii.gz", wrong, other, "--out", out
  )
  assert code == 3
  said = capsys.readouterr()
  refusals = [
    line for line in said.err.splitlines() if line.startswith("vf-jax: ")
  ]
  assert len(refusals) == 4
  for line, path in zip(refusals, ("broken_ct", "missing", "wrong_ct")):
    assert str(tmp_path / path) in line
  assert refusals[3].startswith("vf-jax: 3 not done: broken, missing, wrong ")
  assert sorted(os.listdir(out)) == [
    ".failures", "index.html", "last", "sub-1", "summary.csv"
  ]  # fmt: skip
  assert "sub-1: T12, L1, L2, L3, L4" in said.out
  assert "last: T12, L1, L2, L3, L4" in said.out


def test_the_index_says_that_every_case_was_refused(
  ct, tmp_path, predict, capsys
):
  path = tmp_path / "a.nii.gz"
  path.write_bytes(ct.read_bytes())
  assert predict(path, "--out", tmp_path / "out") == 0
  page = tmp_path / "out" / "index.html"
  assert "did not do this case" not in page.read_text("utf-8")
  path.write_bytes(ct.read_bytes()[:2000])
  assert predict(path, "--out", tmp_path / "out") == 3
  assert "did not do this case" in page.read_text("utf-8")


def test_all_well_is_zero_and_silent(ct, tmp_path, predict, capsys):
  assert predict(ct, "--out", tmp_path) == 0
  said = capsys.readouterr()
  assert said.err == ""
  assert f"{tmp_path}/sub-1/sub-1_report.html" in said.out
  assert (tmp_path / "sub-1" / "sub-1_report.html").exists()


def test_two_inputs_of_one_case_are_a_mistake_of_usage(
  ct, tmp_path, predict, capsys
):
  other = ct.with_name("sub-1.nii")
  assert predict(ct, other, "--out", tmp_path / "out") == 2
  assert "sub-1" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_options_reach_the_reader(ct, tmp_path, predict, capsys):
  path = shifted(ct, tmp_path / "moved.nii.gz", 1024)
  assert predict(path, "--out", tmp_path, "--hu-offset", "-1024") == 0
  image = nibabel.load(ct)
  both = np.stack([np.zeros(image.shape, np.int16), image.dataobj], axis=-1)
  nibabel.save(nibabel.Nifti1Image(both, image.affine), tmp_path / "t.nii.gz")
  assert predict(tmp_path / "t.nii.gz", "--out", tmp_path) == 3
  assert predict(tmp_path / "t.nii.gz", "--out", tmp_path, "--index", 1) == 0
  bare = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
  bare.header.set_zooms((3.0, 3.0, 3.0))
  bare.header["sform_code"] = bare.header["qform_code"] = 0
  nibabel.save(bare, tmp_path / "bare.nii.gz")
  assert predict(tmp_path / "bare.nii.gz", "--out", tmp_path) == 3
  capsys.readouterr()
  said = predict(
    tmp_path / "bare.nii.gz", "--out", tmp_path, "--assume-orientation", "LPS"
  )
  # The oracle knows places in the world, and this one is elsewhere.
  assert said == 0
  assert "no vertebra" in capsys.readouterr().out


def test_every_code_in_a_mask_is_a_level(written):
  folder, _ = written
  codes = np.unique(
    np.asarray(nibabel.load(folder / "sub-1_seg-vert_msk.nii.gz").dataobj)
  )
  assert set(codes.tolist()) - {0} <= set(BY_CODE)
  assert len(codes) == 6


def test_a_folder_that_another_run_takes_away_is_no_fault(
  tmp_path, monkeypatch
):
  (tmp_path / "case").mkdir()

  def gone(path):
    raise FileNotFoundError(path)

  monkeypatch.setattr(os, "listdir", gone)
  check_target(tmp_path, "case")
