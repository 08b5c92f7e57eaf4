# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Reads the files of a case, whatever format they are in."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from vf_jax import labels as label_table
from vf_jax.errors import InputError, InputWarning, warn_input
from vf_jax.io import centroids, lesions, lml, nifti
from vf_jax.io.ct import read_ct
from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.labels import IGNORE
from vf_jax.multispine.case import (
  Case,
  CentroidFile,
  LesionFile,
  MaskFile,
  MaskFiles,
)
from vf_jax.multispine.checks.alignment import rounding_mm, turned_like
from vf_jax.volume import Grid, Volume

_BODY = 50  # of a vertebra, in TPTBox' sub-region masks
_METAIMAGE = (".mhd", ".mha")
_MAX_OVERLAP = 0.01  # of a vertebra's voxels that another mask claims too
Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A case with its voxels.

  Attributes:
    case: where it is from; annotates only what was found to be known.
    image: HU on the native grid.
    labels: VerSe codes, 26 = sacrum, 255 = unknown, on the mask's own grid.
    stored_mask: the mask in the codes of its scheme; TotalSegmentator's names
      all organs.
    centres: VerSe code -> point, mm RAS+.
    centre_kind: 'body', 'mask' (centre of mass of the vertebra), 'subregions'
      (of the bodies in the mask of sub-regions) or 'none'.
    boxes: lesions, mm RAS+.
    digests: file, as the case's folder names it -> SHA-256.
    warnings: what the readers mended, in words.
    unknown: what the source says is known and is not, in words.
  """

  case: Case
  image: Volume | None
  labels: Volume | None
  stored_mask: Volume | None
  centres: Mapping[int, Triple]
  centre_kind: str
  boxes: tuple[AnnotatedLesion, ...]
  digests: Mapping[str, str]
  warnings: tuple[str, ...]
  unknown: tuple[str, ...] = ()

  @property
  def grid(self) -> Grid:
    """Of the image; of the mask if there is no image."""
    first = self.image if self.image is not None else self.labels
    assert first is not None, "Case refuses to have neither"
    return first.grid


def load(case: Case, digests: Mapping[str, str] | None = None) -> Loaded:
  """Reads a case.

  A mask that was stored with other axes than its image is turned; one on
  another grid is no error here: `check` reports it.

  Args:
    case: what a source found.
    digests: of `file_digests`, if they are known already.

  Returns:
    Its voxels, points and boxes.

  Raises:
    InputError: if a file is refused by its reader.
  """
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", InputWarning)
    digests = file_digests(case) if digests is None else digests
    image = None if case.image is None else read_ct(case.image)
    if image is not None and image.source and image.source.format == "dicom":
      case = _with_facts(case)
    stored, codes = _read_mask(case)
    if image is not None and codes is not None:
      stored, codes = _turned(image, stored, codes)
    first = image if image is not None else codes
    assert first is not None, "Case refuses to have neither"
    points, kind = _read_centres(case.centroids, first.grid)
    unknown = []
    if case.centroids is not None and not points:
      name = case.centroids.path.name
      unknown.append(f"{name} holds no point of a vertebra.")
    if kind == "none" and case.subregions is not None and codes is not None:
      points = _body_centres(case.subregions, codes)
      kind = "subregions"
    boxes: tuple[AnnotatedLesion, ...] = ()
    if case.lesions is not None:
      table = lesions.read_blds(case.lesions.path)
      boxes = table.get(case.lesions.key, ())
      if case.lesions.key not in table:
        unknown.append(_unlisted(case.lesions, table))
        case = _without(case, "lesions")
    if (
      codes is None
      and "levels" in case.annotates
      and (kind != "body" or not points)
    ):
      unknown.append(
        "it has neither a mask nor points in bodies: no level is known."
      )
      case = _without(case, "levels")
  notes = [str(w.message) for w in caught if w.category is InputWarning]
  for volume in (image, stored):
    if volume is not None:
      notes += [n for n in volume.warnings if not any(n in m for m in notes)]
  return Loaded(
    case=case,
    image=image,
    labels=codes,
    stored_mask=stored,
    centres=points,
    centre_kind=kind,
    boxes=boxes,
    digests=digests,
    warnings=tuple(_without_folders(note, case) for note in notes),
    unknown=tuple(unknown),
  )


def _without(case: Case, task: str) -> Case:
  return dataclasses.replace(case, annotates=case.annotates - {task})


def _unlisted(file: LesionFile, table: Iterable[str]) -> str:
  """Says that a table has no row of a case, and the key that may be meant."""
  name = _last(file.key)
  # Other keys may be other patients' names.
  near = [key for key in table if _last(key) == name]
  meant = f" (lesion_key: {near[0]}?)" if near else ""
  return (
    f"the table {file.path.name} has no row of {file.key!r}{meant}: nothing is "
    "known of its lesions. If it has none, leave `lesions` empty and say "
    "`annotates: [lesions, ...]`."
  )


def _last(key: str) -> str:
  return key.replace("\\", "/").rpartition("/")[2]


def _without_folders(text: str, case: Case) -> str:
  """Names files by their names: folders may be called like patients.

  A folder that is the image itself, of DICOM, is called 'image'.
  """
  for path in (path for path in case.files if path.is_dir()):
    for known in {path, path.absolute(), path.resolve()}:
      text = text.replace(os.fspath(known), "image")
    text = re.sub(rf"(?<![\w./-]){re.escape(path.name)}(?=[:/])", "image", text)
  folders = {
    os.fspath(known.parent)
    for path in case.files
    for known in (path, path.absolute(), path.resolve())
  }
  for folder in sorted(folders - {os.curdir, os.sep}, key=len, reverse=True):
    text = re.sub(rf"(?<![\w./-]){re.escape(folder + os.sep)}", "", text)
  return text


def file_digests(case: Case) -> dict[str, str]:
  """SHA-256 of every file of a case.

  Args:
    case: what a source found.

  Returns:
    Name -> digest; the same on every machine. Files of one name go by as many
    of the folders above them as it takes to tell them apart.

  Raises:
    InputError: if a file cannot be read.
  """
  names = file_names(case)
  found = {}
  for path, name in names.items():
    try:
      with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
      raise InputError(
        path, f"cannot be read ({error.strerror}).", "check the path."
      ) from error
    found[name] = digest
  return found


def file_names(case: Case) -> dict[pathlib.Path, str]:
  """What `file_digests` calls every file of a case.

  Args:
    case: what a source found.

  Returns:
    File -> name.
  """
  files: list[pathlib.Path] = []
  for path in case.files:
    if path.is_dir():
      files += sorted(p for p in path.rglob("*") if p.is_file())
    else:
      files.append(path)
      files += _companions(path)
  unique = dict.fromkeys(files)
  names = _names(unique)
  return {path: names[path] for path in unique}


def _names(files: Iterable[pathlib.Path]) -> dict[pathlib.Path, str]:
  """A name for each file, without what differs from machine to machine."""
  alike: dict[str, list[pathlib.Path]] = defaultdict(list)
  for path in files:
    alike[path.name].append(path)
  names: dict[pathlib.Path, str] = {}
  for name, paths in alike.items():
    found, parts = [name] * len(paths), 1
    while len(set(found)) < len(paths):
      parts += 1
      found = ["/".join(path.parts[-parts:]) for path in paths]
    names |= dict(zip(paths, found))
  return names


def _companions(path: pathlib.Path) -> list[pathlib.Path]:
  """The voxel file that a MetaImage header names."""
  if path.suffix.lower() not in _METAIMAGE:
    return []
  from vf_jax.io import metaimage

  voxels = metaimage.data_file(path)
  return [] if voxels is None else [voxels]


def _with_facts(case: Case) -> Case:
  """A DICOM series says itself what its scanner was."""
  from vf_jax.io import dicom

  assert case.image is not None
  facts = {**dicom.read_facts(case.image), **case.scanner}
  return dataclasses.replace(case, scanner=facts)


def _read_stored_labels(path: pathlib.Path) -> Volume:
  if path.suffix.lower() in _METAIMAGE:
    from vf_jax.io import metaimage

    return metaimage.read_labels(path)
  return nifti.read_labels(path)


def _read_mask(case: Case) -> tuple[Volume | None, Volume | None]:
  """The mask in its own codes (None if it is many files) and in VerSe's."""
  if case.mask is None:
    return None, None
  if isinstance(case.mask, MaskFiles):
    return None, _read_masks(case.mask)
  return _translate(_read_stored_labels(case.mask.path), case.mask)


def _turned(
  image: Volume, stored: Volume | None, codes: Volume
) -> tuple[Volume | None, Volume]:
  """Gives a mask the axes of its image where both mean the same world."""
  tolerance_mm = rounding_mm(image.grid)
  if image.grid.same_as(codes.grid, tolerance_mm):
    return stored, codes
  turned = turned_like(codes, image.grid, tolerance_mm)
  if turned is None:
    return stored, codes
  name = codes.source.path if codes.source else "mask"
  warn_input(
    name,
    f"its axes are {''.join(codes.axis_codes)}, the image's "
    f"{''.join(image.axis_codes)}; turned to lie on it.",
  )
  if stored is not None:
    stored = turned_like(stored, image.grid, tolerance_mm)
  return stored, turned


def _translate(stored: Volume, mask: MaskFile) -> tuple[Volume, Volume]:
  """Renames what departs from the scheme, then applies the scheme."""
  unknown = np.zeros(stored.voxels.shape if mask.recode else (0, 0, 0), bool)
  if mask.recode:
    renamed = stored.voxels.copy()
    for old, new in mask.recode.items():
      hits = stored.voxels == old
      renamed[hits] = 0 if new == IGNORE else new
      if new == IGNORE:
        unknown |= hits
    stored = dataclasses.replace(stored, voxels=renamed)
  codes = label_table.to_verse(stored.voxels, mask.scheme, mask.path)
  if mask.recode:
    codes[unknown] = IGNORE
  return stored, dataclasses.replace(stored, voxels=codes)


def _read_masks(mask: MaskFiles) -> Volume:
  """Joins one binary file per vertebra."""
  joined: Volume | None = None
  for name, path in sorted(mask.paths.items()):
    code = label_table.level(name, path).code
    part = _read_stored_labels(path)
    if part.voxels.max(initial=0) > 1:
      raise InputError(
        path,
        f"is no binary mask, it holds {part.voxels.max()}.",
        "one file per vertebra holds 0 and 1.",
      )
    if joined is None:
      voxels = np.zeros(part.voxels.shape, np.uint8, order="F")
      joined = dataclasses.replace(part, voxels=voxels)
    if not joined.grid.same_as(part.grid):
      raise InputError(
        path, "lies on another grid than the masks beside it.", "resample it."
      )
    hits = part.voxels > 0
    shared = joined.voxels[hits] > 0
    if shared.any():
      count, size = int(shared.sum()), shared.size
      fault = f"{count:,} of its {size:,} voxels belong to other masks too"
      if count > _MAX_OVERLAP * size:
        raise InputError(path, f"{fault}.", "give each voxel to one vertebra.")
      warn_input(path, f"{fault}; the first keeps them.")
    joined.voxels[hits & (joined.voxels == 0)] = code
  if joined is None:
    raise InputError("mask", "names no file.")
  return joined


def _body_centres(path: pathlib.Path, codes: Volume) -> dict[int, Triple]:
  """Centres of mass of the bodies, mm RAS+."""
  stored = _read_stored_labels(path)
  # They are mostly stored as the mask was before it was turned.
  parts = turned_like(stored, codes.grid, rounding_mm(codes.grid))
  if parts is None:
    raise InputError(
      path, "lies on another grid than the vertebra mask.", "resample it."
    )
  places = np.argwhere(parts.voxels == _BODY)
  owner = codes.voxels[tuple(places.T)]
  found = {}
  for code in np.unique(owner):
    if int(code) in label_table.BY_CODE and code != label_table.SACRUM.code:
      middle = places[owner == code].mean(axis=0, keepdims=True)
      x, y, z = codes.grid.to_world(middle)[0].tolist()
      found[int(code)] = (x, y, z)
  return found


def _read_centres(
  file: CentroidFile | None, grid: Grid
) -> tuple[dict[int, Triple], str]:
  if file is None:
    return {}, "none"
  if file.format in ("voxel", "iso", "iso19"):
    table = centroids.read_centroids(
      file.path, grid, frame=file.format, kind=file.kind
    )
  else:
    table = lml.read_lml(file.path, grid, frame=lml.FORMATS[file.format])
  kept = {
    level.code: point
    for level, point in table.positions.items()
    if level.name != "sacrum"
  }
  return kept, table.kind if kept else "none"
