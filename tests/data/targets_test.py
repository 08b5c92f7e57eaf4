# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What crops are drawn for: shares of domains, kinds, levels and cases."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest
from drawn_cases import make_case

from vf_jax.data.targets import Targets, domain_shares
from vf_jax.errors import ConfigError
from vf_jax.labels import BY_NAME, IGNORE


def draw(store, config, count=3000, cases=None, seed=1):
  targets = Targets(
    store, config.data, range(len(store)) if cases is None else cases
  )
  rng = np.random.default_rng(seed)
  return [targets.draw(rng) for _ in range(count)]


def shares_of(items):
  count = collections.Counter(items)
  return {key: n / count.total() for key, n in count.items()}


def assert_shares(found, expected, count):
  """Within four standard deviations of a draw of `count`."""
  assert found.keys() == expected.keys()
  for key, share in expected.items():
    spread = 4 * np.sqrt(share * (1 - share) / count)
    assert found[key] == pytest.approx(share, abs=spread), key


def test_domains_share_by_weight_and_their_cases_equally(drawn, changed):
  config = changed(
    weights=(("bone", 2.0), ("neck", 1.0)), foreground=0.0, levels=0.0,
    lesions=0.0,
  )  # fmt: skip
  found = draw(drawn, config)
  assert_shares(
    shares_of(drawn.names[target.case] for target in found),
    {"back-1": 1 / 4, "bone-1": 1 / 4, "bone-2": 1 / 4, "neck-1": 1 / 8,
     "neck-2": 1 / 8},
    len(found),
  )  # fmt: skip
  assert {(t.kind, t.point) for t in found} == {("anywhere", None)}


def test_kinds_that_a_domain_lacks_are_shared_among_the_others(drawn, changed):
  config = changed(foreground=0.2, levels=0.2, lesions=0.4)
  found = draw(drawn, config)
  kinds = collections.defaultdict(list)
  for target in found:
    kinds[drawn.records[target.case].domain].append(target.kind)
  assert_shares(
    shares_of(kinds["bone"]),
    {"lesions": 2 / 3, "anywhere": 1 / 3},
    len(kinds["bone"]),
  )
  for domain in ("neck", "back"):
    assert_shares(
      shares_of(kinds[domain]),
      dict.fromkeys(("foreground", "levels", "anywhere"), 1 / 3),
      len(kinds[domain]),
    )


def _label(cases, store, target):
  voxel = tuple(int(v) for v in target.point)
  return int(cases[store.names[target.case]].labels[voxel])


def test_every_level_of_a_domain_comes_as_often(drawn, changed, cases):
  config = changed(
    weights=(("bone", 0.0),), foreground=0.0, levels=1.0, lesions=0.0
  )
  found = draw(drawn, config, 4000)
  for domain, names in (
    ("neck", "C3 C4 C5 C6 C7 T1"),
    ("back", "T12 L1 L2 L3"),
  ):
    own = [t for t in found if drawn.records[t.case].domain == domain]
    codes = [BY_NAME[name].code for name in names.split()]
    assert_shares(
      shares_of(_label(cases, drawn, target) for target in own),
      dict.fromkeys(codes, 1 / len(codes)),
      len(own),
    )
  # Where two cases have a level, each shows it as often.
  of_c5 = [
    drawn.names[t.case]
    for t in found
    if _label(cases, drawn, t) == BY_NAME["C5"].code
  ]
  assert_shares(shares_of(of_c5), {"neck-1": 0.5, "neck-2": 0.5}, len(of_c5))
  assert len({t.point for t in found}) > 300  # not its centre only


def test_foreground_is_any_vertebra_voxel(drawn, changed, cases):
  config = changed(
    weights=(("bone", 0.0),), foreground=1.0, levels=0.0, lesions=0.0
  )
  found = draw(drawn, config, 400)
  assert {t.kind for t in found} == {"foreground"}
  labels = [_label(cases, drawn, target) for target in found]
  assert 0 not in labels
  assert IGNORE not in labels
  assert len(set(labels)) == 10


def test_lesions_are_boxes_each_as_often_in_its_case(drawn, changed):
  config = changed(
    weights=(("back", 0.0), ("neck", 0.0)), foreground=0.0, levels=0.0,
    lesions=1.0,
  )  # fmt: skip
  found = draw(drawn, config)
  expected = {
    (name, box[:3]): 1 / 2 / len(record.boxes)
    for name, record in zip(drawn.names, drawn.records)
    for box in record.boxes
  }
  assert_shares(
    shares_of((drawn.names[t.case], t.point) for t in found),
    expected,
    len(found),
  )


def test_centres_without_mask_and_masks_without_centres_serve(stored, changed):
  shape = (40, 30, 30)
  both = make_case(shape, {"L1": (30, 14, 15), "L2": (18, 14, 15)})
  bare = dataclasses.replace(
    both,
    labels=np.full(shape, IGNORE, np.uint8),
    record=dataclasses.replace(both.record, case="centres"),
  )
  nameless = dataclasses.replace(
    both, record=dataclasses.replace(both.record, case="mask", centres={})
  )
  store = stored(bare, nameless)
  for kinds in ({"levels": 1.0}, {"foreground": 1.0}):
    config = changed(
      **{"foreground": 0.0, "levels": 0.0, "lesions": 0.0} | kinds
    )
    found = draw(store, config, 200)
    points = {store.names[c]: set() for c in range(2)}
    for target in found:
      points[store.names[target.case]].add(target.point)
    assert points["centres"] == {(30, 14, 15), (18, 14, 15)}
    assert len(points["mask"]) > 20
    assert {both.labels[tuple(map(int, p))] for p in points["mask"]} == {20, 21}


def test_only_the_cases_asked_for_are_drawn(drawn, changed):
  found = draw(drawn, changed(), 300, cases=(1, 4))
  assert {drawn.names[t.case] for t in found} == {"bone-1", "neck-2"}


def test_an_unknown_domain_is_refused_by_name(drawn, changed):
  wrong = changed(weights=(("neck", 1.0), ("nek", 1.0)))
  with pytest.raises(ConfigError, match=r"\['nek'\].*\['back', 'bone', 'neck'"):
    draw(drawn, wrong)


def test_weights_that_leave_nothing_are_refused(drawn):
  every = range(len(drawn))
  with pytest.raises(ConfigError, match="leaves no domain of the 5 cases"):
    domain_shares(drawn, dict.fromkeys(drawn.domains, 0.0), every)
  # Of the cases asked for, none has a share.
  with pytest.raises(ConfigError, match=r"of the 2 cases .*\['bone'\]"):
    domain_shares(drawn, {"bone": 0.0}, (1, 2))


def test_shares_add_up_and_leave_out_what_has_none(drawn):
  shares = domain_shares(drawn, {"bone": 0.0, "neck": 3.0}, range(5))
  assert shares == pytest.approx({"back": 0.25, "neck": 0.75})
