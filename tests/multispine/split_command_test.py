# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What `vf-jax split` says and writes of a store."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from drawn_scan import write_scan

from vf_jax.cli import DONE, USAGE, main
from vf_jax.data.pipeline import cases_of_part
from vf_jax.errors import InputError, InputWarning
from vf_jax.multispine.prepare import prepare
from vf_jax.multispine.store import Store
from vf_jax.multispine.store_writer import finish, write_case


def _store(path, *cases):
  for case in cases:
    write_case(path, case)
  finish(path, [case.record.case for case in cases], 2.0)
  return path


def test_a_leak_is_told_with_the_part_of_each_case(tmp_path, make_case, capsys):
  voxels = "1" * 64
  one, two, other = (
    make_case(name, f"site-{name}", subject=name, files={}, **more)
    for name, more in (
      ("a", {"split": "train", "voxels": voxels}),
      ("b", {"split": "test", "voxels": voxels}),
      ("c", {"split": "train", "voxels": "2" * 64}),
    )
  )
  store = _store(tmp_path / "s", one, two, other)
  command = ["split", str(store), "--out", str(tmp_path / "split.json")]
  reason = f"leak: one patient by same voxels {voxels[:16]}: "
  assert main(command) == DONE
  assert f"{reason}a (train, now test), b (test)\n" in capsys.readouterr().err
  assert main([*command, "--leave-out", "site-a"]) == DONE
  assert f"{reason}a (test), b (excluded)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (["--fractions", "0.9,0.9,0.9"], "do not share out all cases"),
    (["--leave-out", "nodomain"], "'nodomain' cannot be left out"),
    (["--fold", "3/50"], "is no fold of 2 patients"),
  ],
)
def test_options_that_make_no_split_are_usage(
  options, words, tmp_path, make_case, capsys
):
  cases = [make_case(n, n, subject=n, files={}, voxels=n * 64) for n in "ab"]
  store, out = _store(tmp_path / "s", *cases), tmp_path / "split.json"
  assert main(["split", str(store), "--out", str(out), *options]) == USAGE
  assert words in capsys.readouterr().err
  assert not out.exists()


def _cohort(folder, site):
  folder.mkdir()
  write_scan(folder)
  if site == "site-y":  # another patient
    for name in ("ct", "mask"):
      path = folder / f"{name}.nii.gz"
      image = nib.load(path)
      flipped = np.asarray(image.dataobj)[..., ::-1].copy()
      flipped[flipped == 40] = 50  # voxels of the CT
      nib.save(nib.Nifti1Image(flipped, image.affine, image.header), path)
  (folder / "cohort.yaml").write_text(
    f"cases: [{{case: '001', domain: {site}, image: ct.nii.gz, "
    "mask: mask.nii.gz}]"
  )
  return f"cohort={folder / 'cohort.yaml'}"


def test_a_split_is_refused_where_its_names_mean_other_cases(tmp_path):
  x, y = (_cohort(tmp_path / site, site) for site in ("site-x", "site-y"))
  path = str(tmp_path / "split.json")
  for name, archives in (("s", (x, y)), ("t", (y, x))):
    with pytest.warns(InputWarning, match="001 is called 001-2 in the store"):
      prepare(archives, tmp_path / name, 4.0, workers=0)
  store = Store(tmp_path / "s")
  command = ["split", str(store.path), "--out", path, "--leave-out", "site-y"]
  assert main(command) == DONE
  assert cases_of_part(store, path, "train") == (0,)
  assert cases_of_part(store, path, "test") == (1,)
  with pytest.raises(InputError, match=r"under these names: 001, 001-2\."):
    cases_of_part(Store(tmp_path / "t"), path, "test")
