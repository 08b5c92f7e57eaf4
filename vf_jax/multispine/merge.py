# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One store of the cases of several, copied as they are."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Sequence

from vf_jax.errors import InputError
from vf_jax.io.atomic import write_text
from vf_jax.multispine.store import Store
from vf_jax.multispine.store_writer import finish, refuse_others, writing


def merge(
  stores: Sequence[tuple[str, str | os.PathLike[str]]],
  target: str | os.PathLike[str],
  *,
  prune: bool = False,
) -> int:
  """Copies the cases of several stores into one.

  Args:
    stores: (prefix, store); with a prefix, its domains are called
      PREFIX-DOMAIN, so that phantoms of a domain are not taken for it.
    target: the new store, made if missing; cases of the same names are
      replaced.
    prune: remove other cases that it holds; without it such a store is refused.

  Returns:
    The number of cases.

  Raises:
    InputError: if a store cannot be read, voxel edges differ, two stores hold a
      case of one name, or the target holds cases of others.
  """
  found = [(prefix, Store(path)) for prefix, path in stores]
  origin: dict[str, Store] = {}
  for _, store in found:
    if store.spacing_mm != found[0][1].spacing_mm:
      raise InputError(
        store.path,
        f"has voxels of {store.spacing_mm} mm, {found[0][1].path} of "
        f"{found[0][1].spacing_mm} mm.",
        "prepare all with the same --spacing.",
      )
    for name in store.names:
      if name in origin:
        raise InputError(
          store.path,
          f"holds the case '{name}', as {origin[name].path} does.",
          "rename one in its archive and prepare it again.",
        )
      origin[name] = store
  folder = pathlib.Path(target)
  if any(folder.resolve() == pathlib.Path(s.path).resolve() for _, s in found):
    raise InputError(folder, "is one of the stores.", "name another --out.")
  with writing(folder):
    if not prune:
      refuse_others(folder, origin, "stores")
    for prefix, store in found:
      for name in store.names:
        _copy(pathlib.Path(store.path) / "cases" / name, folder, prefix)
    finish(folder, list(origin), found[0][1].spacing_mm)
  return len(origin)


def _copy(case: pathlib.Path, store: pathlib.Path, prefix: str) -> None:
  final = store / "cases" / case.name
  part = final.with_name(f".{case.name}.part")
  shutil.copytree(case, part)
  if prefix:
    values = json.loads((part / "case.json").read_text("utf-8"))
    values["record"]["domain"] = f"{prefix}-{values['record']['domain']}"
    text = json.dumps(values, sort_keys=True, indent=1) + "\n"
    write_text(part / "case.json", text)
  shutil.rmtree(final, ignore_errors=True)
  part.rename(final)
