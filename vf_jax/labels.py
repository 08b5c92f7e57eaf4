# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The one table of vertebra levels and its translation to other label schemes.

Inside vf_jax a vertebra mask always holds VerSe codes. Masks of other origin
pass through `to_verse` where they are read and `from_verse` where they are
written. A scheme knows the codes of levels and the codes of other things (an
organ, a disc: these become background). Any other code is refused, because it
most often means a mask read with the wrong table.

Sources of the tables:
  verse: README and `utils/data_utilities.py` of anjany/verse; 26 (sacrum) and
    27 (coccyx) are listed there but not annotated.
  ctspine1k: README of MIRACLE-Center/CTSpine1K. The numbers 1-24 are also those
    of TotalSegmentator's `vertebrae_pp` tasks.
  totalsegmentator, totalsegmentator_v3: `class_map["total"]`, `["total_v3"]` in
    `totalsegmentator/map_to_binary.py`, release 2.18.0.
  tptbox: `Vertebra_Instance` in `TPTBox/core/vert_constants.py`, release 1.1.0
    (spineps writes these numbers).
  totalspineseg: "List of Classes" in its README, releases 20250224 and
    20260807; the numbers of 2024 (18-41, 92, 200-224) are another table.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, SupportsIndex

import numpy as np
from jaxtyping import Integer, UInt8

from vf_jax.errors import InputError

Region = Literal["cervical", "thoracic", "lumbar", "sacral"]
BACKGROUND = 0
_UNKNOWN = 255  # in look-up tables only; no scheme gives a level this code
_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Level:
  """One level of the spine.

  Attributes:
    name: `C1` ... `L6` or `sacrum`.
    region: the part of the spine it belongs to.
    order: 0 (C1) to 26 (sacrum), from head to foot.
    code: its VerSe code, the value of its voxels in every mask of vf_jax.
  """

  name: str
  region: Region
  order: int
  code: int


def _levels() -> tuple[Level, ...]:
  rows: list[tuple[str, Region, int]] = []
  rows += [(f"C{n}", "cervical", n) for n in range(1, 8)]
  rows += [(f"T{n}", "thoracic", 7 + n) for n in range(1, 13)]
  rows += [("T13", "thoracic", 28)]
  rows += [(f"L{n}", "lumbar", 19 + n) for n in range(1, 7)]
  rows += [("sacrum", "sacral", 26)]
  return tuple(
    Level(name, region, order, code)
    for order, (name, region, code) in enumerate(rows)
  )


LEVELS: tuple[Level, ...] = _levels()
BY_NAME: Mapping[str, Level] = MappingProxyType({v.name: v for v in LEVELS})
BY_CODE: Mapping[int, Level] = MappingProxyType({v.code: v for v in LEVELS})
SACRUM: Level = BY_NAME["sacrum"]
VERTEBRAE: tuple[Level, ...] = LEVELS[:-1]
"""Levels that a vertebra can have, from head to foot: all but the sacrum."""

IGNORE = 255
"""Value of voxels in training masks of which nothing is known."""

CODES = 29
"""Size of tables indexed by VerSe code (0..28)."""

_BY_FOLDED_NAME = {v.name.casefold(): v for v in LEVELS}


def level(
  name_or_code: str | SupportsIndex,
  source: str | os.PathLike[str] = "<level>",
) -> Level:
  """Finds a level by its name or by its VerSe code.

  Args:
    name_or_code: `L3` (case does not matter), or a VerSe code, e.g. 22.
    source: the file the value comes from, for the error.

  Returns:
    The level.

  Raises:
    InputError: there is no such level.
  """
  if isinstance(name_or_code, str):
    found = _BY_FOLDED_NAME.get(name_or_code.strip().casefold())
  else:
    found = BY_CODE.get(operator.index(name_or_code))
  if found is None:
    raise InputError(
      source,
      f"there is no vertebra level {name_or_code!r}.",
      "use a name of C1-C7, T1-T13, L1-L6, sacrum, or the VerSe code: "
      f"{_ranges(BY_CODE)}.",
    )
  return found


@dataclasses.dataclass(frozen=True)
class Scheme:
  """One way of numbering the structures of a label mask.

  Attributes:
    name: its key in `SCHEMES`.
    levels: code in this scheme -> level; several codes may share a level.
    writes: level -> the one code that is written for it; a level that is not
      here cannot be said in this scheme.
    others: code -> name of what is known but is not a level.
    hint: what an unknown code in such a mask most often means.
  """

  name: str
  levels: Mapping[int, Level]
  writes: Mapping[Level, int]
  others: Mapping[int, str]
  hint: str = ""


def _scheme(
  name: str,
  codes: Mapping[str, int],
  others: Mapping[int, str] | None = None,
  parts: Mapping[int, str] | None = None,
  hint: str = "",
) -> Scheme:
  writes = {BY_NAME[key]: code for key, code in codes.items()}
  levels = {code: key for key, code in writes.items()}
  levels |= {code: BY_NAME[key] for code, key in (parts or {}).items()}
  return Scheme(
    name,
    MappingProxyType(levels),
    MappingProxyType(writes),
    MappingProxyType(dict(others or {})),
    hint,
  )


def _run(
  region: str, first: int, last: int, code: int, step: int = 1
) -> dict[str, int]:
  """Names region+first..last, numbered from `code` on."""
  return {
    f"{region}{n}": code + step * (n - first) for n in range(first, last + 1)
  }


# The 117 classes of TotalSegmentator's task `total` in the order of their
# numbers, without the vertebrae and sacrum, 25-50.
_TOTAL_BEFORE = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas
adrenal_gland_right adrenal_gland_left lung_upper_lobe_left
lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right
lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum
colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right
""".split()
_TOTAL_AFTER = """
heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right
subclavian_artery_left common_carotid_artery_right common_carotid_artery_left
brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left
superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein
iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right
humerus_left humerus_right scapula_left scapula_right clavicula_left
clavicula_right femur_left femur_right hip_left hip_right spinal_cord
gluteus_maximus_left gluteus_maximus_right gluteus_medius_left
gluteus_medius_right gluteus_minimus_left gluteus_minimus_right
autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain skull
""".split()
_RIBS = [f"rib_{s}_{n}" for s in ("left", "right") for n in range(1, 13)]
_TOTAL_OTHERS = dict(enumerate(_TOTAL_BEFORE, start=1)) | dict(
  enumerate([*_TOTAL_AFTER, *_RIBS, "sternum", "costal_cartilages"], start=51)
)
_TOTAL_LEVELS = (
  _run("C", 1, 7, 50, -1)
  | _run("T", 1, 12, 43, -1)
  | _run("L", 1, 5, 31, -1)
  | {"sacrum": 25}
)

_VERSE_1_TO_25 = _run("C", 1, 7, 1) | _run("T", 1, 12, 8) | _run("L", 1, 6, 20)
_TPTBOX_PARTS = {n: f"S{n - 27}" for n in range(29, 34)}
_TPTBOX_NAMES = {code: v.name for code, v in BY_CODE.items()} | _TPTBOX_PARTS
_TPTBOX_NAMES |= {26: "S1", 27: "coccyx"}

_DISCS = (
  {61 + n: f"disc_C{n}_C{n + 1}" for n in range(2, 7)}
  | {71: "disc_C7_T1"}
  | {71 + n: f"disc_T{n}_T{n + 1}" for n in range(1, 12)}
  | {91: "disc_T12_L1"}
  | {91 + n: f"disc_L{n}_L{n + 1}" for n in range(1, 5)}
  | {100: "disc_L5_S"}
)

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
  {
    s.name: s
    for s in (
      _scheme(
        "verse",
        {v.name: v.code for v in LEVELS},
        {27: "coccyx"},
        hint="codes 27-50 together are TotalSegmentator's, 11-50 with gaps are "
        "totalspineseg's, 41-50 alone are a sub-region mask.",
      ),
      _scheme("ctspine1k", _VERSE_1_TO_25),
      # 26, S1, is a part of the sacrum that TotalSegmentator cuts off. Both
      # become sacrum; written back, the whole is 25.
      _scheme("totalsegmentator", _TOTAL_LEVELS, _TOTAL_OTHERS, {26: "sacrum"}),
      _scheme("totalsegmentator_v3", _TOTAL_LEVELS | {"L6": 26}, _TOTAL_OTHERS),
      _scheme(
        "tptbox",
        {v.name: v.code for v in LEVELS},
        {27: "coccyx"}
        | {100 + code: f"disc_{name}" for code, name in _TPTBOX_NAMES.items()}
        | {
          200 + code: f"endplate_{name}" for code, name in _TPTBOX_NAMES.items()
        },
        dict.fromkeys(_TPTBOX_PARTS, "sacrum"),
        hint="41-50 and 60-62 belong to the sub-region mask; give the vertebra "
        "instance mask (seg-vert).",
      ),
      _scheme(
        "totalspineseg",
        _run("C", 1, 7, 11)
        | _run("T", 1, 12, 21)
        | _run("L", 1, 5, 41)
        | {"sacrum": 50},
        {1: "spinal_cord", 2: "spinal_canal"} | _DISCS,
        hint="masks made before 2025 (18-41, 92, 200-224) use another table.",
      ),
    )
  }
)


def to_verse(
  mask: Integer[np.ndarray, "*shape"],
  scheme: str,
  source: str | os.PathLike[str] = "<array>",
) -> UInt8[np.ndarray, "*shape"]:
  """Translates a label mask into VerSe codes.

  Structures that the scheme knows but that are no level (`SCHEMES[scheme]
  .others`) become background. The memory order of the mask is kept, and nothing
  wider than the result is allocated.

  Args:
    mask: label mask in the codes of `scheme`; any shape.
    scheme: a key of `SCHEMES`.
    source: the file the mask comes from, for the errors.

  Returns:
    A new mask of VerSe codes.

  Raises:
    InputError: the mask is not of integers or holds codes that the scheme does
      not know.
  """
  table = np.full(256, _UNKNOWN, np.uint8)
  numbering = _find_scheme(scheme, source)
  table[[BACKGROUND, *numbering.others]] = BACKGROUND
  for code, target in numbering.levels.items():
    table[code] = target.code
  result, unknown = _translate(mask, table, source)
  if unknown:
    raise _unknown_codes(unknown, numbering, source)
  return result


def from_verse(
  mask: Integer[np.ndarray, "*shape"],
  scheme: str,
  source: str | os.PathLike[str] = "<array>",
) -> UInt8[np.ndarray, "*shape"]:
  """Translates a mask of VerSe codes into another scheme, to write it.

  Args:
    mask: label mask in VerSe codes; any shape.
    scheme: a key of `SCHEMES`.
    source: the file the mask comes from or goes to, for the errors.

  Returns:
    A new mask in the codes of `scheme`; coccyx (27) becomes background.

  Raises:
    InputError: the mask is not of integers, holds a code that is not VerSe, or
      a level that the scheme has no code for (T13, L6, sacrum in some).
  """
  table = np.full(256, _UNKNOWN, np.uint8)
  numbering = _find_scheme(scheme, source)
  verse = SCHEMES["verse"]
  table[[BACKGROUND, *verse.others]] = BACKGROUND
  for target, code in numbering.writes.items():
    table[target.code] = code
  result, unknown = _translate(mask, table, source)
  foreign = [code for code in unknown if code not in BY_CODE]
  if foreign:
    raise _unknown_codes(foreign, verse, source)
  if unknown:
    names = ", ".join(BY_CODE[code].name for code in unknown)
    raise InputError(
      source,
      f"{names}: no code in the scheme {scheme!r}.",
      "write the mask in 'verse' codes, or set these voxels to 0 first.",
    )
  return result


def totalsegmentator_class(
  level: Level, source: str | os.PathLike[str] = "<level>"
) -> str:
  """Names a level as TotalSegmentator names its one-class files.

  Args:
    level: a level of the table.
    source: the file that is to be written, for the error.

  Returns:
    `vertebrae_C1` ... `vertebrae_L6` or `sacrum`. `vertebrae_L6` exists in
    `total_v3` only.

  Raises:
    InputError: TotalSegmentator has no such class (T13).
  """
  if level not in SCHEMES["totalsegmentator_v3"].writes:
    raise InputError(
      source,
      f"TotalSegmentator has no class for {level.name}.",
      "leave this level out or write VerSe codes.",
    )
  return level.name if level == SACRUM else f"vertebrae_{level.name}"


def totalsegmentator_level(
  name: str, source: str | os.PathLike[str] = "<name>"
) -> Level | None:
  """Reads a TotalSegmentator class name, e.g. from a file name.

  Args:
    name: class name without suffix: `vertebrae_L1`, `sacrum`, `liver`.
    source: the file, for the error.

  Returns:
    The level; `vertebrae_S1` is sacrum. None for the other known classes.

  Raises:
    InputError: not one of the class names of `total` or `total_v3`.
  """
  if name in ("sacrum", "vertebrae_S1"):
    return SACRUM
  found = BY_NAME.get(name.removeprefix("vertebrae_"))
  if found is not None and name == totalsegmentator_class(found, source):
    return found
  if name in _TOTAL_OTHERS.values():
    return None
  raise InputError(
    source,
    f"{name!r} is no class of TotalSegmentator's task 'total'.",
    "name the files vertebrae_C1 ... vertebrae_L5, vertebrae_S1, sacrum.",
  )


def _find_scheme(name: str, source: str | os.PathLike[str]) -> Scheme:
  if name not in SCHEMES:
    raise InputError(
      source,
      f"there is no label scheme {name!r}.",
      f"use one of {', '.join(SCHEMES)}.",
    )
  return SCHEMES[name]


def _unknown_codes(
  codes: Iterable[int], scheme: Scheme, source: str | os.PathLike[str]
) -> InputError:
  allowed = {BACKGROUND, *scheme.levels, *scheme.others}
  shown = list(codes)
  text = ", ".join(str(code) for code in shown[:12])
  if len(shown) > 12:
    text += f" and {len(shown) - 12} more"
  fix = f"the allowed codes are {_ranges(allowed)}; name the scheme the mask"
  fix += f" was made with ({', '.join(SCHEMES)})."
  if scheme.hint:
    fix += f" Note: {scheme.hint}"
  return InputError(
    source, f"codes unknown to the scheme {scheme.name!r}: {text}.", fix
  )


def _ranges(codes: Iterable[int]) -> str:
  """Writes codes as `0-28, 101-128`."""
  runs: list[list[int]] = []
  for code in sorted(codes):
    if runs and code == runs[-1][1] + 1:
      runs[-1][1] = code
    else:
      runs.append([code, code])
  return ", ".join(
    str(first) if first == last else f"{first}-{last}" for first, last in runs
  )


def _translate(
  mask: np.ndarray, table: np.ndarray, source: str | os.PathLike[str]
) -> tuple[np.ndarray, list[int]]:
  """Looks every voxel up, block by block; the codes it missed, ascending.

  NOTE: `table[mask]` at once would widen the mask to int64 first, eight bytes
  a voxel.
  """
  if mask.dtype.kind not in "iu":
    raise InputError(
      source,
      f"a label mask must hold integers, this one holds {mask.dtype}.",
      "round it after a check that every value is whole.",
    )
  result = np.empty_like(mask, dtype=np.uint8, subok=False)
  unknown: set[int] = set()
  with np.nditer(
    [mask, result],
    flags=["external_loop", "buffered", "zerosize_ok"],
    op_flags=[["readonly"], ["writeonly"]],
    order="K",
    buffersize=_BLOCK,
  ) as blocks:
    for codes, translated in blocks:
      if codes.size and (codes.min() < 0 or codes.max() >= len(table)):
        outside = (codes < 0) | (codes >= len(table))
        unknown.update(np.unique(codes[outside]).tolist())
        translated[...] = BACKGROUND
        translated[~outside] = table[codes[~outside]]
      else:
        translated[...] = table[codes]
      missed = translated == _UNKNOWN
      if missed.any():
        unknown.update(np.unique(codes[missed]).tolist())
  return result, sorted(unknown)
