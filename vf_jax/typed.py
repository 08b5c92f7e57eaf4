# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses from nested mappings, every type checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from vf_jax.errors import ConfigError


def to_plain(value: Any) -> Any:
  """Turns nested dataclasses into plain JSON types.

  Args:
    value: a dataclass, or anything in one.

  Returns:
    Dicts, lists and scalars that `build` accepts again.
  """
  if dataclasses.is_dataclass(value):
    return {
      f.name: to_plain(getattr(value, f.name))
      for f in dataclasses.fields(value)
    }
  if isinstance(value, tuple):
    return [to_plain(item) for item in value]
  return value


def build(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
  """Builds a dataclass from nested mappings.

  Args:
    cls: the dataclass; its fields are scalars, literals, tuples or dataclasses.
    values: one entry a field; those with a default may be missing.
    prefix: of the keys in messages.

  Returns:
    The instance.

  Raises:
    ConfigError: on unknown, missing or wrongly typed keys; the message names
      the key and the fix.
  """
  hints = typing.get_type_hints(cls)
  unknown = sorted(set(values) - set(hints))
  if unknown:
    near = difflib.get_close_matches(unknown[0], list(hints), n=1)
    raise ConfigError(
      f"unknown key {prefix}{unknown[0]}."
      + (f" Fix: did you mean {prefix}{near[0]}?" if near else "")
    )
  # Fields with a default came later than files that are still read.
  fields = {field.name: field for field in dataclasses.fields(cls)}
  missing = [
    name
    for name in hints
    if name not in values and fields[name].default is dataclasses.MISSING
  ]
  if missing:
    raise ConfigError(
      f"missing key {prefix}{missing[0]}. Fix: set it; configs/tiny.py names "
      "every key."
    )
  return cls(
    **{
      name: _convert(hint, values[name], f"{prefix}{name}")
      for name, hint in hints.items()
      if name in values
    }
  )


def _convert(hint: Any, value: Any, key: str) -> Any:
  if dataclasses.is_dataclass(hint):
    if not isinstance(value, Mapping):
      raise ConfigError(f"{key}={value!r} must be a group of keys.")
    return build(typing.cast(type, hint), value, f"{key}.")
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    if value not in args:
      raise ConfigError(f"{key}={value!r} is unknown. Fix: one of {args}.")
    return value
  if origin is tuple:
    if isinstance(value, Mapping):  # {domain: weight}
      value = list(value.items())
    if isinstance(value, str) or not hasattr(value, "__iter__"):
      raise ConfigError(f"{key}={value!r} must be a list.")
    items = list(value)
    kinds = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
    if len(items) != len(kinds):
      raise ConfigError(
        f"{key}={value!r} has {len(items)} entries. Fix: give {len(kinds)}."
      )
    return tuple(
      _convert(kind, item, f"{key}[{i}]")
      for i, (kind, item) in enumerate(zip(kinds, items))
    )
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise ConfigError(
      f"{key}={value!r} is {type(value).__name__}. Fix: give a {hint.__name__}."
    )
  if isinstance(value, float) and not math.isfinite(value):
    raise ConfigError(f"{key}={value!r} is no finite number. Fix: give one.")
  return value


def check_positive(config: Any, *names: str, group: str = "") -> None:
  """Refuses fields that are not above 0.

  Args:
    config: a dataclass.
    *names: of its fields.
    group: of keys that it is, for the message; '' for the outermost.

  Raises:
    ConfigError: with the field and the fix.
  """
  for name in names:
    if not getattr(config, name) > 0:
      raise ConfigError(
        f"{_key(group, name)}={getattr(config, name)} must be above 0. "
        "Fix: raise it."
      )


def check_not_negative(config: Any, *names: str, group: str = "") -> None:
  """Refuses fields below 0.

  Args:
    config: a dataclass.
    *names: of its fields.
    group: of keys that it is, for the message; '' for the outermost.

  Raises:
    ConfigError: with the field and the fix.
  """
  for name in names:
    if not getattr(config, name) >= 0:
      raise ConfigError(
        f"{_key(group, name)}={getattr(config, name)} is negative. Fix: use "
        "0 or more."
      )


def check_probability(config: Any, *names: str, group: str = "") -> None:
  """Refuses fields outside 0..1.

  Args:
    config: a dataclass.
    *names: of its fields.
    group: of keys that it is, for the message; '' for the outermost.

  Raises:
    ConfigError: with the field and the fix.
  """
  for name in names:
    if not 0 <= getattr(config, name) <= 1:
      raise ConfigError(
        f"{_key(group, name)}={getattr(config, name)} is outside 0..1. "
        "Fix: bring it in."
      )


def _key(group: str, name: str) -> str:
  return f"{group}.{name}" if group else name
