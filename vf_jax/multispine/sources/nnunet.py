# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""nnU-Net raw data sets, and those of the Decathlon that look alike.

`DatasetXXX_Name/{imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs,
labelsTs, dataset.json}`. nnU-Net needs consecutive codes, so a code says
nothing: `labels` in dataset.json names the levels ('L1', 'vertebrae_L1',
'Th12', 'sacrum'), and by name they are translated. Other structures become
background; a label that looks like a vertebra and is none that we know is
refused. The ignore label becomes unknown (255), never background.

`splits_final.json`, if there, gives train and validation of its first fold;
cases of `labelsTs` are the test.

Source: documentation/dataset_format.md and how_to_use_ignore_label.md of
MIC-DKFZ/nnUNet.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from vf_jax.errors import InputError, warn_input
from vf_jax.labels import BY_NAME, IGNORE, SACRUM, Level
from vf_jax.multispine.case import Case, MaskFile, Split
from vf_jax.multispine.sources import ctspine1k, verse_names
from vf_jax.multispine.sources.codes import refuse_others
from vf_jax.multispine.sources.listing import (
  VOLUME_SUFFIXES,
  Listing,
  list_tree,
  read_json,
  warn_left_out,
)

_FILE = "dataset.json"
_SIDES = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_LEVEL = re.compile(
  r"(?:vertebrae?|vert|vertebral|level)?[-_ ]*"
  r"(c|th|t|l)(?:umbar|ervical|horacic)?[-_ ]*0?(\d{1,2})",
  re.IGNORECASE,
)
_SUSPECT = re.compile(
  r"(?!.*(?:dis[ck]|canal|arter|vein|cord|foram)).*vert|(?:c|th|t|l)[-_ ]?\d+$",
  re.IGNORECASE,
)
_NOT_CT = re.compile(r"(?:mri?|t1|t2|flair|adc|dwi|pet)\b", re.IGNORECASE)
_NOTE = "dataset.json does not say who drew the masks."


def looks_like(listing: Listing) -> bool:
  """Whether a folder holds an nnU-Net data set.

  Args:
    listing: of the folder.

  Returns:
    True if a dataset.json lies beside a folder labelsTr.
  """
  return bool(_descriptions(listing))


def find(listing: Listing) -> tuple[Case, ...]:
  """Finds the cases of one or several nnU-Net data sets.

  Args:
    listing: of a data set or of `nnUNet_raw`; of imagesTr and its like the
      folder above is read. Of several data sets those without vertebrae are
      left out with a warning.

  Returns:
    The cases.

  Raises:
    InputError: if labels cannot be translated or no channel is a CT.
  """
  if listing.root.name in _SIDES:
    listing = list_tree(listing.root.parent)
  files = _descriptions(listing)
  cases: list[Case] = []
  for path in files:
    try:
      cases += _find_one(listing, path)
    except InputError as error:
      if len(files) == 1:
        raise
      warn_input(path, f"{error.fault} This data set is left out.")
  return tuple(cases)


def _descriptions(listing: Listing) -> list[pathlib.Path]:
  folders = set(listing.folders)
  return [
    path
    for path in listing.files
    if path.name == _FILE and path.parent / "labelsTr" in folders
  ]


def _find_one(listing: Listing, path: pathlib.Path) -> list[Case]:
  content = read_json(path, "description of a data set")
  if not isinstance(content, dict):
    raise InputError(
      path, "is no JSON object.", "see nnU-Net's dataset_format."
    )
  recode, dropped = _recode(path, content.get("labels"))
  channel = _channel(path, content)
  ending = str(content.get("file_ending", ".nii.gz"))
  if ending.casefold() not in VOLUME_SUFFIXES:
    raise InputError(
      path,
      f"its files end in {ending!r}.",
      f"convert them to one of {', '.join(VOLUME_SUFFIXES)}.",
    )
  splits = _splits(path.parent)
  notes = [_NOTE]
  if dropped:
    notes.append(f"taken for background: {', '.join(dropped)}.")
  facts = {
    "licence": str(content.get("licence") or content.get("license") or "")
    or "unknown",
    "origin": str(content.get("reference") or "") or path.parent.name,
  }
  cases, left_out = [], []
  for end in ("Tr", "Ts"):
    images = _by_case(listing, path.parent / f"images{end}", ending)
    labels = _by_case(listing, path.parent / f"labels{end}", ending)
    used = set()
    for name, mask in sorted(labels.items()):
      names = (f"{name}_{channel:04d}", *([name] if channel == 0 else []))
      image = next((images[n] for n in names if n in images), None)
      used |= {n for n in images if n == name or _is_channel(n, name)}
      split: Split | None = "test" if end == "Ts" else splits.get(name)
      cases.append(
        _case(path.parent.name, name, image, mask, recode, split, facts, notes)
      )
    left_out += [images[name].name for name in images.keys() - used]
  warn_left_out(path.parent, left_out, "no label file")
  return cases


def _is_channel(name: str, case: str) -> bool:
  return re.fullmatch(rf"{re.escape(case)}_\d{{4}}", name) is not None


def _by_case(
  listing: Listing, folder: pathlib.Path, ending: str
) -> dict[str, pathlib.Path]:
  return {
    path.name[: -len(ending)]: path
    for path in listing.files
    if path.parent == folder and path.name.casefold().endswith(ending)
  }


def _case(
  data_set: str,
  name: str,
  image: pathlib.Path | None,
  mask: pathlib.Path,
  recode: Mapping[int, int],
  split: Split | None,
  facts: Mapping[str, str],
  notes: list[str],
) -> Case:
  # Names of known archives keep their patient, so that splits cannot leak.
  patient = verse_names.patient_of(name) or ctspine1k.patient_of(name)
  return Case(
    name=f"{data_set}-{name}",
    source="nnunet",
    domain=data_set,
    subject=patient or f"{data_set}-{name}",
    series=name if patient else "ct",
    licence=facts["licence"],
    image=image,
    mask=MaskFile(mask, "verse", dict(recode)),
    annotates=frozenset({"masks", "levels"}),
    mask_kind="expert",
    split=split,
    origin=facts["origin"],
    seed=int("".join(filter(str.isdigit, name))[-9:] or 0),
    notes=tuple(notes),
  )


def _recode(
  path: pathlib.Path, labels: Any
) -> tuple[dict[int, int], list[str]]:
  """Code in the file -> VerSe code, and names of what becomes background."""
  table: dict[int, int] = {}
  dropped = []
  for name, code in _label_codes(path, labels).items():
    if name.casefold() in ("background", "bg"):
      continue
    if name.casefold() == "ignore":
      table[code] = IGNORE
      continue
    found = _level(name)
    if found is not None:
      table[code] = found.code
    elif _SUSPECT.match(name.strip()):
      raise InputError(
        path,
        f"label {name!r} looks like a vertebra of no known level.",
        "name them C1 ... L6, T13, sacrum; or describe the masks in a cohort.",
      )
    else:
      table[code] = 0
      dropped.append(name)
  levels = [code for code in table.values() if code not in (0, IGNORE)]
  if not levels:
    raise InputError(
      path, "names no vertebra level in its labels.", "is it a spine data set?"
    )
  if len(set(levels)) < len(levels):
    raise InputError(path, "names a level twice.", "mend its labels.")
  return refuse_others(table), dropped


def _label_codes(path: pathlib.Path, labels: Any) -> dict[str, int]:
  """Name -> code; the Decathlon writes it the other way round."""
  if not isinstance(labels, dict) or not labels:
    raise InputError(path, "has no labels.", "see nnU-Net's dataset_format.")
  if all(str(key).isdigit() for key in labels):
    if all(isinstance(name, str) for name in labels.values()):
      labels = {name: int(code) for code, name in labels.items()}
  found = {}
  for name, code in labels.items():
    if isinstance(code, str) and code.isdigit():
      code = int(code)
    if isinstance(code, bool) or not isinstance(code, int):
      raise InputError(
        path,
        f"label {name!r} is {code!r}, no single code.",
        "region labels cannot be told apart again; give plain labels.",
      )
    if not 0 <= code < 255:
      raise InputError(path, f"label {name!r} has code {code}.", "use 0-254.")
    found[str(name)] = code
  if len(set(found.values())) < len(found):
    raise InputError(path, "two labels share a code.", "mend its labels.")
  return found


def _level(name: str) -> Level | None:
  text = name.strip()
  if text.casefold() in ("sacrum", "s1", "vertebrae_s1"):
    return SACRUM
  match = _LEVEL.fullmatch(text)
  if match is None:
    return None
  return BY_NAME.get(f"{match[1][0].upper()}{int(match[2])}")


def _channel(path: pathlib.Path, content: Mapping[str, Any]) -> int:
  """Number of the channel that is the CT."""
  names = content.get("channel_names", content.get("modality", {"0": "CT"}))
  if not isinstance(names, dict) or not all(str(k).isdigit() for k in names):
    raise InputError(path, "has malformed channel_names.", 'write {"0": "CT"}.')
  channels = {int(key): str(name).strip() for key, name in names.items()}
  ct = [key for key, name in sorted(channels.items()) if name.upper() == "CT"]
  if ct:
    return ct[0]
  if len(channels) > 1 or any(_NOT_CT.match(n) for n in channels.values()):
    shown = ", ".join(channels.values())
    raise InputError(
      path, f"no channel is a CT: {shown}.", 'name the CT channel "CT".'
    )
  return next(iter(channels), 0)


def _splits(folder: pathlib.Path) -> dict[str, Split]:
  """Case -> split of the first fold."""
  name = "splits_final.json"
  places = (folder, folder.parent.parent / "nnUNet_preprocessed" / folder.name)
  path = next((p / name for p in places if (p / name).is_file()), None)
  if path is None:
    return {}
  folds = read_json(path, "list of folds")
  fold = folds[0] if isinstance(folds, list) and folds else None
  if not isinstance(fold, dict) or not {"train", "val"} <= fold.keys():
    raise InputError(path, "holds no folds of train and val.", "remove it.")
  found: dict[str, Split] = {str(case): "train" for case in fold["train"]}
  found |= {str(case): "validation" for case in fold["val"]}
  return found
