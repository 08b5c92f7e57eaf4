# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A case as its source describes it: which files, and what they may teach.

Sources (`multispine/sources/`) find cases without reading voxels; `load`
reads one. Nothing here knows the layout of any archive.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal, get_args

from vf_jax.errors import InputError

Task = Literal["masks", "levels", "cut_vertebrae", "lesions"]
MaskKind = Literal["expert", "network", "synthetic", "none"]
CentreKind = Literal["body", "mask"]
CentroidFormat = Literal["voxel", "iso", "iso19", "lml", "lml-lps", "lml-ras"]
Split = Literal["train", "validation", "test", "test_public", "test_private"]
TASKS: tuple[str, ...] = get_args(Task)


@dataclasses.dataclass(frozen=True)
class MaskFile:
  """One multi-label mask.

  Attributes:
    path: the file.
    scheme: its label table, a name of `labels.SCHEMES`.
    recode: codes to rename before the scheme is applied.
  """

  path: pathlib.Path
  scheme: str = "verse"
  recode: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MaskFiles:
  """One binary mask per vertebra.

  Attributes:
    paths: name of the level ('L1', 'sacrum') -> its file.
  """

  paths: Mapping[str, pathlib.Path]


@dataclasses.dataclass(frozen=True)
class CentroidFile:
  """One point per vertebra.

  Attributes:
    path: the file.
    format: 'voxel', 'iso', 'iso19' (ctd.json, see `io.centroids`), or a key of
      `io.lml.FORMATS` (SpineWeb).
    kind: 'body' or 'mask' (centre of mass of the whole vertebra); None for
      what the format has in its archive.
  """

  path: pathlib.Path
  format: CentroidFormat = "voxel"
  kind: CentreKind | None = None


@dataclasses.dataclass(frozen=True)
class LesionFile:
  """A table of lesion boxes in the format of BLDS, see `io.lesions`.

  Attributes:
    path: the file.
    key: how the table names this case's image.
  """

  path: pathlib.Path
  key: str


@dataclasses.dataclass(frozen=True)
class Case:
  """One scan of a source.

  Attributes:
    name: unique in a store; a plain file name.
    source: kind of source: 'verse', 'ctspine1k', ...
    domain: where it comes from; what is left out in cross-domain studies.
    subject: patient, the unit of splits; shared by all scans of one.
    series: which scan of the subject.
    licence: of image and annotation.
    image: NIfTI or MetaImage file or DICOM folder; None for a mask alone.
    mask: vertebra masks.
    subregions: TPTBox mask of the parts of vertebrae (50 = body), from which
      body centres are derived if there are no centroids.
    centroids: one point a vertebra.
    lesions: boxes.
    annotates: what absence means something in; 'cut_vertebrae': vertebrae cut
      by the field of view are annotated too.
    mask_kind: what the masks may be called.
    split: the part of the official split, None without one.
    scanner: facts of the scanner where known ('manufacturer', 'kvp', ...).
    origin: archive, version or DOI.
    tissues: 'totalsegmentator' if the mask names all organs too.
    background_boxes: corners, mm RAS+, of regions known to hold no vertebra,
      for images without a mask; of one with a mask, for what is unknown in it.
    margin_mm: keep only this much around the vertebrae; None keeps all.
    seed: of the bones modelled around a mask without its image.
    notes: known faults of this case, in words.

  Raises:
    InputError: if name, tasks or files do not fit together.
  """

  name: str
  source: str
  domain: str
  subject: str
  series: str
  licence: str
  image: pathlib.Path | None = None
  mask: MaskFile | MaskFiles | None = None
  subregions: pathlib.Path | None = None
  centroids: CentroidFile | None = None
  lesions: LesionFile | None = None
  annotates: frozenset[str] = frozenset()
  mask_kind: MaskKind = "none"
  split: Split | None = None
  scanner: Mapping[str, str] = dataclasses.field(default_factory=dict)
  origin: str = "unknown"
  tissues: Literal["totalsegmentator"] | None = None
  background_boxes: tuple[
    tuple[tuple[float, float, float], tuple[float, float, float]], ...
  ] = ()
  margin_mm: float | None = None
  seed: int = 0
  notes: tuple[str, ...] = ()

  def __post_init__(self):
    if (
      not self.name
      or pathlib.PurePath(self.name).name != self.name
      or self.name.startswith(".")
    ):
      raise InputError(
        self.name or "<case>",
        "is no name for a folder of the store.",
        "use no slashes in it and no dot before it.",
      )
    if strange := self.annotates - set(TASKS):
      raise InputError(
        self.name,
        f"annotates {sorted(strange)}, unknown here.",
        f"allowed: {list(TASKS)}.",
      )
    if self.image is None and self.mask is None:
      raise InputError(
        self.name, "has neither image nor mask.", "name at least one."
      )

  @property
  def files(self) -> tuple[pathlib.Path, ...]:
    """Every file or folder that `load` reads."""
    masks: tuple[pathlib.Path, ...] = ()
    if isinstance(self.mask, MaskFile):
      masks = (self.mask.path,)
    elif self.mask is not None:
      masks = tuple(self.mask.paths.values())
    tables = (t.path for t in (self.centroids, self.lesions) if t is not None)
    others = (self.image, self.subregions)
    return (*(p for p in others if p is not None), *masks, *tables)
