# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writes scans as each archive has them: names, codes and what it leaves out.

A layout has a function that writes one series, and may have one that writes
the tables of the whole archive once all cases are there.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vf_jax.io import lml, metaimage, nifti
from vf_jax.io.atomic import write_text
from vf_jax.io.centroids import Centroids, write_centroids
from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.labels import (
  BY_CODE,
  SACRUM,
  SCHEMES,
  VERTEBRAE,
  from_verse,
  totalsegmentator_class,
)
from vf_jax.multispine.identity import PHANTOM
from vf_jax.multispine.phantom.field_of_view import is_inside
from vf_jax.multispine.phantom.marks import LICENCE
from vf_jax.multispine.phantom.plan import NNUNET_DATASET, SPINEWEB_MASKS
from vf_jax.multispine.phantom.points import Triple
from vf_jax.multispine.phantom.scanner import Scan, cut_codes
from vf_jax.multispine.phantom.visibility import judge_lesions
from vf_jax.volume import Volume


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
  """One scan with the truth that belongs to it.

  Attributes:
    name: of the image in its archive, without ending.
    subject: the patient.
    group: the part of the archive: subset or data set.
    part: of the official split: 'train', 'validation' or 'test'.
    scan: image and labels.
    centres: VerSe code -> body centre, mm RAS+, of the whole patient.
    lesions: of the whole patient.
  """

  name: str
  subject: str
  group: str
  part: str
  scan: Scan
  centres: Mapping[int, Triple]
  lesions: tuple[AnnotatedLesion, ...]


Rows = Sequence[Mapping[str, Any]]
"""What `row_of` gives of every series of an archive."""


def row_of(series: Series) -> dict[str, Any]:
  """What the tables of an archive say of a series.

  Args:
    series: the scan.

  Returns:
    Plain JSON values.
  """
  boxes, complete = judge_lesions(series.lesions, series.scan)
  return {
    "name": series.name,
    "subject": series.subject,
    "group": series.group,
    "part": series.part,
    "kvp": series.scan.protocol.kvp,
    "lesions": [dataclasses.asdict(box) for box in boxes],
    "judged": complete,
  }


@dataclasses.dataclass(frozen=True)
class Layout:
  """How one archive is written.

  Attributes:
    write: writes a series into the archive's folder and gives its files.
    finish: writes the tables about all series into that folder.
  """

  write: Callable[[pathlib.Path, Series], list[pathlib.Path]]
  finish: Callable[[pathlib.Path, Rows], None]


def annotated(
  scan: Scan, *, cut: bool, sacrum: bool = False
) -> UInt8[np.ndarray, "x y z"]:
  """The labels that an archive has of a scan.

  Args:
    scan: with labels of all that is in view.
    cut: whether vertebrae cut by the top or bottom are annotated. Those cut at
      the sides are, as far as they are seen: their bodies are in view.
    sacrum: whether the sacrum is.

  Returns:
    VerSe codes.
  """
  dropped = set() if cut else set(cut_codes(scan.labels)) - {SACRUM.code}
  if not sacrum:
    dropped.add(SACRUM.code)
  table = np.arange(256, dtype=np.uint8)
  table[sorted(dropped)] = 0
  return table[scan.labels.voxels]


def points_of(
  labels: UInt8[np.ndarray, "x y z"], series: Series
) -> dict[int, Triple]:
  """Body centres of the annotated vertebrae whose centre is in view.

  Args:
    labels: as the archive has them.
    series: the scan.

  Returns:
    VerSe code -> point, mm RAS+.
  """
  grid = series.scan.image.grid
  return {
    code: point
    for code, point in series.centres.items()
    if is_inside(grid, point) and (labels == code).any()
  }


def _write_verse(root: pathlib.Path, series: Series) -> list[pathlib.Path]:
  """The subject-based tree; vertebrae that are cut are not annotated."""
  part = {"train": "training"}.get(series.part, series.part)
  tree = root / f"dataset-verse20{part}"
  raw = tree / "rawdata" / series.subject
  derived = tree / "derivatives" / series.subject
  files = [
    raw / f"{series.name}_ct.nii.gz",
    raw / f"{series.name}_ct.json",
    derived / f"{series.name}_seg-vert_msk.nii.gz",
    derived / f"{series.name}_seg-subreg_ctd.json",
  ]
  _make_folders(files)
  labels = annotated(series.scan, cut=False)
  nifti.write(files[0], series.scan.image)
  side_car = {
    "dataset": "VERSE phantom of vf_jax",
    "KVP": str(series.scan.protocol.kvp),
    "Manufacturer": "vf_jax",
    "ManufacturerModelName": series.scan.protocol.domain,
  }
  write_text(files[1], json.dumps(side_car, indent=4) + "\n")
  nifti.write(files[2], labels, series.scan.image)
  _write_points(files[3], labels, series)
  return files


def _write_ctspine1k(root: pathlib.Path, series: Series) -> list[pathlib.Path]:
  """Volumes and labels by subset; vertebrae that are cut are annotated."""
  data = root / "raw_data"
  files = [
    data / "volumes" / series.group / f"{series.name}.nii.gz",
    data / "labels" / series.group / f"{series.name}_seg.nii.gz",
  ]
  _make_folders(files)
  labels = annotated(series.scan, cut=True)
  nifti.write(files[0], series.scan.image)
  codes = from_verse(labels, "ctspine1k", files[1])
  nifti.write(files[1], codes, series.scan.image)
  return files


def _finish_ctspine1k(root: pathlib.Path, rows: Rows) -> None:
  sections = {"train": "trainset", "validation": "test_public"}
  names: dict[str, list[str]] = {
    section: [] for section in ("trainset", "test_public", "test_private")
  }
  for row in rows:
    section = sections.get(row["part"], "test_private")
    names[section].append(f"{row['name']}.nii.gz")
  lines = []
  for section, found in names.items():
    lines += [f"{section}:", *found, ""]
  write_text(root / "data_split.txt", "\n".join(lines))


# Codes of one's own, from the feet up, as a set without documentation has
# them: read as VerSe's they are all wrong.
_SPINEWEB_CODES = {
  level: 26 - level.code for level in VERTEBRAE if level.name != "T13"
}


def _write_spineweb(root: pathlib.Path, series: Series) -> list[pathlib.Path]:
  """MetaImage: set 2 has masks of whole vertebrae, set 3 points only."""
  folder = root / series.group
  if series.group != SPINEWEB_MASKS:
    folder = folder / series.subject / series.name
  image = folder / f"{series.name}.mhd"
  files = [image, image.with_suffix(".raw")]
  _make_folders(files)
  metaimage.write(image, series.scan.image)
  if series.group == SPINEWEB_MASKS:
    mask = folder / f"{series.name}_label.mhd"
    table = np.zeros(256, np.uint8)
    for level, code in _SPINEWEB_CODES.items():
      table[level.code] = code
    labels = table[annotated(series.scan, cut=False)]
    metaimage.write(mask, Volume(labels, series.scan.image.affine))
    return [*files, mask, mask.with_suffix(".raw")]
  points = points_of(annotated(series.scan, cut=True), series)
  found = {BY_CODE[code]: point for code, point in points.items()}
  path = folder / f"{series.name}.lml"
  lml.write_lml(path, Centroids(found), series.scan.image.grid)
  return [*files, path]


def _finish_spineweb(root: pathlib.Path, rows: Rows) -> None:
  if any(row["group"] == SPINEWEB_MASKS for row in rows):
    lines = [f"{code},{level.name}" for level, code in _SPINEWEB_CODES.items()]
    path = root / SPINEWEB_MASKS / "levels.csv"
    write_text(path, "\n".join(["code,level", *lines]) + "\n")


def _write_cohort(root: pathlib.Path, series: Series) -> list[pathlib.Path]:
  """A hospital's folder: images, masks, points, and one table of lesions."""
  files = [
    root / "images" / f"{series.name}.nii.gz",
    root / "masks" / f"{series.name}.nii.gz",
    root / "centroids" / f"{series.name}_ctd.json",
  ]
  _make_folders(files)
  labels = annotated(series.scan, cut=True)
  nifti.write(files[0], series.scan.image)
  nifti.write(files[1], labels, series.scan.image)
  _write_points(files[2], labels, series)
  return files


def _finish_cohort(root: pathlib.Path, rows: Rows) -> None:
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  header = ("image_path", "class", "x", "y", "z", "width", "height", "depth")
  writer.writerow(header)
  for row in rows:
    for box in row["lesions"]:
      # RAS+ to the table's LPS+.
      x, y, z = box["centre_mm"]
      place = [round(v, 4) + 0.0 for v in (-x, -y, z)]
      size = [round(v, 4) for v in box["size_mm"]]
      image = f"{row['name']}.nii.gz"
      writer.writerow([image, box["kind"], *place, *size])
  write_text(root / "lesions.csv", table.getvalue())
  cases = [
    f"  - {{case: {row['name']}, subject: {row['subject']}, "
    f"split: {row['part']}, scanner: {{kvp: {row['kvp']}}}"
    # No row of the table says that there is none.
    + ("" if row["lesions"] and row["judged"] else ", lesions: ~")
    # A sliver of a lesion is neither one nor none.
    + ("}" if row["judged"] else f", annotates: [{_TASKS}]}}")
    for row in rows
  ]
  write_text(root / "cohort.yaml", _COHORT + "\n".join(cases) + "\n")


_TASKS = "masks, levels, cut_vertebrae"
_COHORT = f"""\
defaults:
  domain: cohort
  licence: {LICENCE}
  origin: {PHANTOM}
  image: images/{{case}}.nii.gz
  mask: masks/{{case}}.nii.gz
  mask_kind: synthetic
  centroids: centroids/{{case}}_ctd.json
  lesions: lesions.csv
  annotates: [{_TASKS}, lesions]
cases:
"""


def _write_totalsegmentator(
  root: pathlib.Path, series: Series
) -> list[pathlib.Path]:
  """One binary file per class; levels that are not there are empty files."""
  folder = root / series.name
  image = folder / "ct.nii.gz"
  labels = annotated(series.scan, cut=True, sacrum=True)
  files = [image]
  for level in SCHEMES["totalsegmentator"].writes:
    name = totalsegmentator_class(level)
    files.append(folder / "segmentations" / f"{name}.nii.gz")
  _make_folders(files)
  nifti.write(image, series.scan.image)
  for level, path in zip(SCHEMES["totalsegmentator"].writes, files[1:]):
    nifti.write(path, labels == level.code, series.scan.image)
  return files


def _finish_totalsegmentator(root: pathlib.Path, rows: Rows) -> None:
  lines = ["image_id;institute;split;manufacturer;kvp"]
  parts = {"validation": "val"}
  for row in rows:
    part = parts.get(row["part"], row["part"])
    lines.append(f"{row['name']};phantom;{part};vf_jax;{row['kvp']}")
  write_text(root / "meta.csv", "\n".join(lines) + "\n")


# nnU-Net wants consecutive numbers, so T13 (28) moves to the free 26.
_NNUNET = {level.name: level.code for level in VERTEBRAE} | {"T13": 26}


def _write_nnunet(root: pathlib.Path, series: Series) -> list[pathlib.Path]:
  """The raw data of one nnU-Net data set."""
  data = root / NNUNET_DATASET
  part = "Ts" if series.part == "test" else "Tr"
  files = [
    data / f"images{part}" / f"{series.name}_0000.nii.gz",
    data / f"labels{part}" / f"{series.name}.nii.gz",
  ]
  _make_folders(files)
  table = np.zeros(256, np.uint8)
  for level in VERTEBRAE:
    table[level.code] = _NNUNET[level.name]
  labels = table[annotated(series.scan, cut=False)]
  nifti.write(files[0], series.scan.image)
  nifti.write(files[1], labels, series.scan.image)
  return files


def _finish_nnunet(root: pathlib.Path, rows: Rows) -> None:
  order = sorted(_NNUNET, key=lambda name: _NNUNET[name])
  content = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0} | {name: _NNUNET[name] for name in order},
    "numTraining": sum(row["part"] != "test" for row in rows),
    "file_ending": ".nii.gz",
    "name": NNUNET_DATASET,
    "reference": "phantom of vf_jax",
    "licence": LICENCE,
  }
  folder = root / NNUNET_DATASET
  (folder / "labelsTr").mkdir(parents=True, exist_ok=True)
  write_text(folder / "dataset.json", json.dumps(content, indent=2) + "\n")
  fold = {
    key: [row["name"] for row in rows if row["part"] == part]
    for key, part in (("train", "train"), ("val", "validation"))
  }
  write_text(folder / "splits_final.json", json.dumps([fold], indent=2) + "\n")


def _no_tables(root: pathlib.Path, rows: Rows) -> None:
  """Archives whose file names say all."""


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
  {
    "verse": Layout(_write_verse, _no_tables),
    "ctspine1k": Layout(_write_ctspine1k, _finish_ctspine1k),
    "spineweb": Layout(_write_spineweb, _finish_spineweb),
    "cohort": Layout(_write_cohort, _finish_cohort),
    "totalsegmentator": Layout(
      _write_totalsegmentator, _finish_totalsegmentator
    ),
    "nnunet": Layout(_write_nnunet, _finish_nnunet),
  }
)
"""Name of a source, which is its folder too -> how it is written."""


def _make_folders(files: Sequence[pathlib.Path]) -> None:
  for path in files:
    path.parent.mkdir(parents=True, exist_ok=True)


def _write_points(
  path: pathlib.Path, labels: np.ndarray, series: Series
) -> None:
  points = points_of(labels, series)
  found = {BY_CODE[code]: point for code, point in points.items()}
  write_centroids(path, Centroids(found), series.scan.image.grid)
