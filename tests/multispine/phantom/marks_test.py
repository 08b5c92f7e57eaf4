"""A phantom never passes for a case of the archive it looks like."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vf_jax.io import nifti
from vf_jax.multispine.phantom import make
from vf_jax.multispine.phantom.marks import mark
from vf_jax.multispine.sources import find_cases
from vf_jax.volume import Volume


@pytest.fixture
def archive(tmp_path):
  """A VerSe tree of one mask, one folder below `tmp_path`."""
  folder = tmp_path / "verse" / "derivatives" / "sub-verse500"
  folder.mkdir(parents=True)
  mask = Volume(np.full((3, 3, 3), 20, np.uint8), np.eye(4))
  nifti.write(folder / "sub-verse500_seg-vert_msk.nii.gz", mask)
  return tmp_path


def truth(**changes):
  content = {"format": "vf_jax phantom", "seed": 7, "licence": "CC-BY-SA-4.0"}
  return json.dumps(content | changes)


def test_phantoms_are_marked(archive):
  (archive / "phantom.json").write_text(truth())
  (real,) = find_cases("verse", archive / "verse")
  (case,) = mark((real,))
  assert case.mask_kind == "synthetic"
  assert case.origin == "vf_jax phantom, seed 7"
  assert case.licence == "CC-BY-SA-4.0"
  assert case.notes == ()
  assert (case.name, case.subject, case.files) == (
    real.name, real.subject, real.files,
  )  # fmt: skip


@pytest.mark.parametrize("text", [None, "{", "[]", truth(format="other")])
def test_real_archives_are_left_alone(archive, text):
  if text is not None:
    (archive / "phantom.json").write_text(text)
  found = find_cases("verse", archive / "verse")
  assert mark(found) == found
  assert found[0].mask_kind == "expert"
  assert found[0].origin.startswith("VerSe")


def test_an_archive_beside_phantoms_is_left_alone(archive):
  (archive / "phantom.json").write_text(truth(sources=["ctspine1k", "cohort"]))
  (archive / "verse").rename(archive / "VerSe20")
  (case,) = find_cases("verse", archive / "VerSe20")
  assert case.mask_kind == "expert"
  (archive / "VerSe20").rename(archive / "verse")
  (case,) = find_cases("verse", archive / "verse")
  assert case.mask_kind == "expert", "this run wrote no verse"


def test_phantoms_of_a_run_that_has_not_ended_are_marked(tmp_path, monkeypatch):
  real = make.acquire

  def acquire(anatomy, protocol, rng):
    if list(tmp_path.rglob("case-*.json")):
      raise KeyboardInterrupt
    return real(anatomy, protocol, rng)

  monkeypatch.setattr(make, "acquire", acquire)
  with pytest.raises(KeyboardInterrupt):
    make.make_phantoms(tmp_path, 2, 7, sources=["verse"], workers=0)
  assert not (tmp_path / "phantom.json").exists()
  (case,) = find_cases("verse", tmp_path / "verse")
  assert case.mask_kind == "synthetic"
  assert case.origin == "vf_jax phantom, seed 7"
  assert case.licence == "CC-BY-SA-4.0"
