# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Boxes of prepared cases are compared where they lie in the world."""

from __future__ import annotations

import importlib
import pathlib
import types

import numpy as np
import pytest

from vf_jax.multispine.store import Store

_ROOT = pathlib.Path(__file__).parents[2]
# Of blds-1, as the table that came with the patches has it, in RAS.
_CENTRE = (-24.45474, -169.87754, -547.53988)
_SIZE = (14.70576, 12.59023, 11.17256)


@pytest.fixture(scope="module")
def lesions():
  return importlib.import_module("lesions")


def predictor_of(*boxes):
  found = [
    types.SimpleNamespace(centre_mm=centre, size_mm=_SIZE, score=score)
    for centre, score in boxes
  ]
  return lambda volume, case: types.SimpleNamespace(
    lesions=found, candidates=[]
  )


def test_a_true_box_is_found_and_a_false_one_counted(lesions):
  store = Store(_ROOT / "tests" / "data" / "store")
  case = store.case(store.names.index("blds-1"))
  far = tuple(np.add(_CENTRE, 40.0).tolist())
  row = lesions.judge(predictor_of((far, 0.9), (_CENTRE, 0.4)), case)
  np.testing.assert_allclose(row["true"][0], row["found"][1], atol=0.1)
  found = lesions.summary([row])
  assert (found["scans"], found["lesions"]) == (1, 1)
  for kind in ("iou", "centre"):
    assert found[kind]["recall"] == [1.0, 1.0, 1.0]
    assert found[kind]["ap"] == pytest.approx(0.5)
  missed = lesions.judge(predictor_of((far, 0.9)), case)
  assert lesions.summary([missed])["iou"]["recall"] == [0.0, 0.0, 0.0]


def test_a_store_is_named_with_its_weights_and_cases(lesions):
  words = ("new=a/b", "fold=a/b@run/x:blds-1,blds-7", "part=a:blds-1")
  asked = [lesions._cases_of(word) for word in words]
  assert [(a.name, a.store, a.weights, a.cases) for a in asked] == [
    ("new", "a/b", "", ()),
    ("fold", "a/b", "run/x", ("blds-1", "blds-7")),
    ("part", "a", "", ("blds-1",)),
  ]


def test_cases_are_those_with_boxes_or_those_named(lesions):
  store = str(_ROOT / "tests" / "data" / "store")

  def names(cases=""):
    found = lesions._cases(lesions._cases_of(f"x={store}{cases}"))
    return [case.record.case for case in found]

  assert len(names()) == 6
  assert names(":blds-7,blds-1") == ["blds-1", "blds-7"]
  with pytest.raises(SystemExit, match="no case \\['blds-9'\\]"):
    names(":blds-9")
