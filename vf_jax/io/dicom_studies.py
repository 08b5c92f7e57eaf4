# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which folders of a tree hold which DICOM examination."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence

from vf_jax.errors import InputError
from vf_jax.io.dicom_headers import import_pydicom, is_directory
from vf_jax.io.sniff import HEAD_BYTES, is_dicom

# What often lies beside slices, in hundreds; it is not even opened.
_FOREIGN = (
  *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf"),
  *(".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".md", ".log"),
  *(".htm", ".html", ".css", ".js", ".exe", ".dll", ".inf", ".ini"),
)


def find_study(folder: pathlib.Path, names: Sequence[str]) -> str | None:
  """Names the examination that a folder belongs to.

  Args:
    folder: any folder.
    names: of its files; they are looked at up to the first DICOM object,
      pictures and texts by their suffix, pipes and devices excepted. A
      DICOMDIR is none.

  Returns:
    Study instance UID of its first DICOM object; if that has none, words that
    no other folder gets; None if there is no such file.

  Raises:
    InputError: if there is one and pydicom is not installed.
  """
  unnamed = f"unnamed {folder}"
  for name in names:
    if name.lower().endswith(_FOREIGN):
      continue
    path = folder / name
    try:
      if not path.is_file():
        continue  # a pipe would be waited for
      with path.open("rb") as file:
        if not is_dicom(file.read(HEAD_BYTES)):
          continue
        pydicom = import_pydicom(os.fspath(path))
        file.seek(0)
        with warnings.catch_warnings():
          warnings.simplefilter("ignore")
          dataset = pydicom.dcmread(
            file,
            stop_before_pixels=True,
            force=True,
            specific_tags=["SOPClassUID", "StudyInstanceUID"],
          )
        if is_directory(dataset):
          continue
        return str(dataset.get("StudyInstanceUID") or unnamed)
    except InputError:
      raise
    except OSError:
      continue
    except Exception:
      # Damaged: the reader says how when the case is read.
      return unnamed
  return None


def examinations(
  studies: Mapping[pathlib.Path, str],
  others: Iterable[pathlib.Path],
  top: pathlib.Path,
) -> list[pathlib.Path]:
  """Finds the folder of each examination: the highest that holds no other.

  None lies above a link to a folder: the reader follows none, so that what is
  beside the link is read apart from what it leads to.

  Args:
    studies: folders that hold DICOM files -> their examination.
    others: folders that hold other cases.
    top: the folder that was searched.

  Returns:
    One folder for each examination, sorted; `top` itself if it holds nothing
    else. Where one lies inside another's folder, that folder alone: they have
    to be told apart by series.
  """
  below: dict[pathlib.Path, set[str]] = {}
  for folder, study in (*studies.items(), *((place, "") for place in others)):
    for place in (folder, *folder.parents):
      below.setdefault(place, set()).add(study)
      if place.is_symlink():
        study += f" by {place}"
  found = set()
  for folder, study in studies.items():
    while folder != top and below[folder.parent] == {study}:
      if folder.is_symlink():
        break
      folder = folder.parent
    found.add(folder)

  def read_with_another(folder: pathlib.Path) -> bool:
    while folder != top and not folder.is_symlink():
      folder = folder.parent
      if folder in found:
        return True
    return False

  return sorted(one for one in found if not read_with_another(one))
