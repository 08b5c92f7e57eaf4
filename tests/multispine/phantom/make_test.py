"""A phantom benchmark: the same from the same seed, however it is made."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.labels import BY_CODE, BY_NAME
from vf_jax.multispine.load import load
from vf_jax.multispine.phantom import anatomy, make
from vf_jax.multispine.phantom.make import make_phantoms
from vf_jax.multispine.phantom.plan import SOURCES
from vf_jax.multispine.phantom.spine import draw_variant
from vf_jax.multispine.sources import find_cases
from vf_jax.volume import check_hounsfield


@pytest.fixture(autouse=True)
def small(monkeypatch, stub_anatomy):
  """Coarse scans of stubs that differ by their seed."""
  true_draw = make.draw_protocol

  def draw_protocol(domain, rng, size):
    protocol = true_draw(domain, rng, size)
    coarse = max(protocol.slice_mm, 4.0)
    return dataclasses.replace(
      protocol, matrix=56, slice_mm=coarse, step_mm=coarse
    )

  def make_anatomy(rng, levels, margin_mm, rates):
    variant = draw_variant(rng, rates.variants)
    patient = stub_anatomy(*levels, 4.0)
    shift = np.int16(rng.integers(1, 40))
    hu = np.where(patient.hu > 0, patient.hu + shift, patient.hu)
    return dataclasses.replace(patient, hu=hu, variant=variant)

  monkeypatch.setattr(make, "draw_protocol", draw_protocol)
  monkeypatch.setattr(make, "make_anatomy", make_anatomy)


def digests(folder):
  """Relative name -> digest of all files of the archives."""
  return {
    path.relative_to(folder).as_posix(): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and ".phantom" not in path.parts
  }


def truth_of(folder):
  return json.loads((folder / "phantom.json").read_text())


def test_all_sources_are_read_end_to_end(tmp_path):
  path = make_phantoms(tmp_path / "out", 12, 3, sources=SOURCES, workers=0)
  assert path == tmp_path / "out" / "phantom.json"
  truth = truth_of(path.parent)
  assert (truth["seed"], len(truth["cases"])) == (3, 12)
  for source in SOURCES:
    cases = find_cases(source, path.parent / source)
    records = [c for c in truth["cases"] if c["source"] == source]
    assert len(cases) == len(records) == 2
    domains = {s["domain"] for c in records for s in c["series"]}
    assert {case.domain for case in cases} == domains
    for case in cases:
      loaded = load(case)
      assert check_hounsfield(loaded.image).verdict == "ok"
      name = str(case.files[0].relative_to(path.parent))
      (series,) = [
        s for c in records for s in c["series"] if name in s["files"]
      ]
      if loaded.labels is not None:
        codes = set(np.unique(loaded.labels.voxels).tolist()) - {0}
        seen = {BY_NAME[n].code for n in series["visible"]}
        whole = {BY_NAME[n].code for n in series["whole"]}
        assert whole <= codes <= seen
      for file in series["files"]:
        assert (path.parent / file).is_file()


def test_a_case_depends_on_seed_and_number_alone(tmp_path):
  make_phantoms(tmp_path / "three", 3, 1, workers=0)
  make_phantoms(tmp_path / "five", 5, 1, workers=0)
  make_phantoms(tmp_path / "other", 3, 2, workers=0)
  three, five = (truth_of(tmp_path / n)["cases"] for n in ("three", "five"))
  assert five[:3] == three
  files = [f for case in three for s in case["series"] for f in s["files"]]
  seen = digests(tmp_path / "five")
  mine = digests(tmp_path / "three")
  assert {f: mine[f] for f in files} == {f: seen[f] for f in files}
  theirs = digests(tmp_path / "other")
  images = [f for f in files if f.endswith(("_ct.nii.gz", ".raw"))]
  assert images
  assert all(mine[f] != theirs.get(f) for f in images)


def test_cases_with_other_numbers_have_other_names(tmp_path):
  make_phantoms(tmp_path / "low", 4, 1, workers=0)
  make_phantoms(tmp_path / "high", 2, 1, first=4, workers=0)
  make_phantoms(tmp_path / "both", 6, 1, workers=0)
  high = truth_of(tmp_path / "high")["cases"]
  assert high == truth_of(tmp_path / "both")["cases"][4:]
  low = truth_of(tmp_path / "low")["cases"]
  names = [s["name"] for case in (*low, *high) for s in case["series"]]
  assert len(set(names)) == 6
  with pytest.raises(InputError, match="made with first 4"):
    make_phantoms(tmp_path / "high", 2, 1, workers=0)


def test_spans_and_variants_can_be_chosen(tmp_path):
  spans = (("c1", "T2"), ("L1", "sacrum"))
  path = make_phantoms(
    tmp_path / "out", 12, 1, spans=spans, variants={"T13": 0.5}, workers=0
  )
  truth = truth_of(path.parent)
  assert truth["spans"] == [["C1", "T2"], ["L1", "sacrum"]]
  assert truth["variants"] == {"T13": 0.5}
  found = {
    tuple(series["protocol"]["span"])
    for case in truth["cases"]
    for series in case["series"]
  }
  assert found == {("C1", "T2"), ("L1", "sacrum")}


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
  whole, torn = tmp_path / "whole", tmp_path / "torn"
  make_phantoms(whole, 4, 7, workers=0)
  true_acquire, calls = make.acquire, []

  def acquire(anatomy, protocol, rng):
    calls.append(protocol.domain)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return true_acquire(anatomy, protocol, rng)

  monkeypatch.setattr(make, "acquire", acquire)
  with pytest.raises(KeyboardInterrupt):
    make_phantoms(torn, 4, 7, workers=0)
  assert not (torn / "phantom.json").exists()
  calls.clear()
  calls.extend(["done"] * 3)
  make_phantoms(torn, 4, 7, workers=0)
  assert len(calls) == 3 + 2, "cases that were there are made again"
  assert digests(torn) == digests(whole)
  # A run that was killed outright leaves what it was writing.
  stale = torn / "verse" / ".vf-0123456789abcdef.part"
  stale.write_bytes(b"half")
  os.utime(stale, (1e9, 1e9))
  # A file that went missing or was cut short brings its case back.
  victim = next(torn.rglob("*_ct.nii.gz"))
  victim.write_bytes(victim.read_bytes()[:100])
  calls.clear()
  calls.extend(["done"] * 3)
  make_phantoms(torn, 4, 7, workers=0)
  assert len(calls) == 3 + 1
  assert not stale.exists()
  assert digests(torn) == digests(whole)


def test_more_cases_can_be_added(tmp_path):
  out = tmp_path / "out"
  make_phantoms(out, 2, 1, workers=0)
  make_phantoms(out, 3, 1, workers=0)
  make_phantoms(tmp_path / "at-once", 3, 1, workers=0)
  assert digests(out) == digests(tmp_path / "at-once")
  with pytest.raises(InputError, match="holds 3 cases already"):
    make_phantoms(out, 2, 1, workers=0)


def test_foreign_folders_and_other_settings_are_refused(tmp_path):
  out = tmp_path / "out"
  make_phantoms(out, 1, 1, workers=0)
  with pytest.raises(InputError, match="made with seed 1"):
    make_phantoms(out, 1, 2, workers=0)
  (tmp_path / "data" / "verse").mkdir(parents=True)
  with pytest.raises(InputError, match="which no phantom has made"):
    make_phantoms(tmp_path / "data", 1, 1, workers=0)


def test_a_failing_case_is_named_and_the_others_are_made(tmp_path, monkeypatch):
  true_acquire = make.acquire

  def acquire(anatomy, protocol, rng):
    if protocol.domain == "colonog":
      raise MemoryError("no room")
    return true_acquire(anatomy, protocol, rng)

  monkeypatch.setattr(make, "acquire", acquire)
  with pytest.raises(InputError, match="1 cases failed; case 1: no room"):
    make_phantoms(tmp_path / "out", 4, 1, workers=0)
  monkeypatch.setattr(make, "acquire", true_acquire)
  make_phantoms(tmp_path / "out", 4, 1, workers=0)
  make_phantoms(tmp_path / "whole", 4, 1, workers=0)
  assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_leaks_are_there_to_be_found(tmp_path):
  out = tmp_path / "out"
  make_phantoms(out, 9, 5, variants={"T13": 0.4}, leaks=True, workers=0)
  verse = find_cases("verse", out / "verse")
  subjects = [case.subject for case in verse]
  assert len(subjects) == 4
  assert len(set(subjects)) == 3, "no patient with two series"
  images = {
    case.name: load(case).image
    for case in (*verse, *find_cases("ctspine1k", out / "ctspine1k"))
  }
  digest = {
    name: hashlib.sha256(image.voxels.tobytes()).hexdigest()
    for name, image in images.items()
  }
  twins = [
    (a, b) for a in digest for b in digest if a < b and digest[a] == digest[b]
  ]
  assert twins == [("ctspine1k-liver_2", "sub-verse501")]
  colon = [n for n in images if "9328" in n]
  assert len(colon) == 2, "no prone series beside the supine one"
  tables = {
    s["protocol"]["table"]
    for case in truth_of(out)["cases"]
    if case["subject"].endswith("0001") and case["source"] == "ctspine1k"
    for s in case["series"]
  }
  assert tables == {"back", "front"}


def test_archives_get_no_variant_that_they_cannot_say(tmp_path):
  variants = {}
  for source in ("ctspine1k", "cohort"):
    out = tmp_path / source
    make_phantoms(
      out, 5, 0, sources=(source,), variants={"T13": 0.6}, workers=0
    )
    variants[source] = {case["variant"] for case in truth_of(out)["cases"]}
  assert variants == {"ctspine1k": {"usual"}, "cohort": {"usual", "T13"}}


def test_who_cannot_be_said_costs_no_body(tmp_path, monkeypatch):
  draw, bodies = make.make_anatomy, []

  def make_anatomy(rng, **options):
    bodies.append(draw(rng, **options))
    return bodies[-1]

  monkeypatch.setattr(make, "make_anatomy", make_anatomy)
  make_phantoms(
    tmp_path / "out",
    2,
    sources=("ctspine1k",),
    variants={"T13": 0.99},
    workers=0,
  )
  assert [body.variant for body in bodies] == ["usual"] * 2


def test_an_absent_level_is_scanned_at_its_neighbour(tmp_path, monkeypatch):
  coarse = functools.partial(anatomy.make_anatomy, spacing_mm=4.0)
  monkeypatch.setattr(make, "make_anatomy", coarse)
  path = make_phantoms(
    tmp_path / "out",
    1,
    sources=("cohort",),
    spans=(("T12", "T12"),),
    variants={"absent T12": 1.0},
    workers=0,
  )
  (case,) = truth_of(path.parent)["cases"]
  assert "T12" not in case["levels"]
  assert "T11" in case["series"][0]["visible"]


def test_truth_names_lesions_fractures_and_pedicles(tmp_path):
  make_phantoms(tmp_path / "out", 4, 1, workers=0)
  truth = truth_of(tmp_path / "out")
  case = truth["cases"][3]
  assert case["source"] == "cohort"
  (lesion,) = case["lesions"]
  centre = case["centres_mm"][lesion["level"]]
  assert np.linalg.norm(np.subtract(centre, lesion["centre_mm"])) < 10
  assert set(case["fractures"]) <= set(case["levels"])
  assert len(case["pedicles_mm"][case["levels"][0]]) == 2
  assert case["series"][0]["protocol"]["kernel"] in ("standard", "soft")
  assert truth["licence"]
  assert truth["versions"]["numpy"] == np.__version__


def test_modelled_anatomy_goes_all_the_way(tmp_path, monkeypatch):
  coarse = functools.partial(anatomy.make_anatomy, spacing_mm=3.0)
  monkeypatch.setattr(make, "make_anatomy", coarse)
  make_phantoms(tmp_path / "out", 1, 4, sources=("cohort",), workers=0)
  (case,) = find_cases("cohort", tmp_path / "out" / "cohort")
  loaded = load(case)
  (truth,) = truth_of(tmp_path / "out")["cases"]
  assert len(loaded.centres) >= 3
  for code, point in loaded.centres.items():
    voxel = np.rint(loaded.grid.to_voxel(np.array([point]))[0]).astype(int)
    assert loaded.labels.voxels[tuple(voxel)] == code
    name = BY_CODE[code].name
    np.testing.assert_allclose(point, truth["centres_mm"][name], atol=1e-2)
