# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import json
import types

import jax
import numpy as np
import pytest

_FACTS = {"date": "d", "command": "c", "commit": "1", "machine": "m"}
_SECONDS = (
  1.0,
  0.5,
  1.5,
  8.0,
  6.0,
  6.5,
  7.0,
  9.0,
  12.0,
  8.5,
  9.5,
)  # of the settings


@pytest.fixture(scope="module")
def same_job():
  return importlib.import_module("same_job")


def _rounds(same_job, seconds):
  return {
    setting: [
      {
        "train_s": factor * s,
        "train_cpu_s": 2 * factor * s,
        "infer_s": s,
        "infer_cpu_s": s,
        "peak_mib": 10.0,
      }
      for factor in (1, 2, 3)
    ]
    for setting, s in zip(same_job.SETTINGS, seconds)
  }


def test_the_fastest_setting_of_a_peer_counts(same_job):
  rounds = _rounds(same_job, _SECONDS)
  assert same_job.best(rounds, same_job.OURS, "train") == 2.0
  assert same_job.best(rounds, same_job.UNETR, "train") == 12.0
  assert same_job.best(rounds, same_job.SWIN, "infer") == 8.5
  text = same_job.render({"speed": {"facts": _FACTS, "rounds": rounds}})
  line = next(x for x in text.splitlines() if "UNETR, torch.compile" in x)
  assert "| 6.0 (6.0-6.0) | 6.0 (6.0-6.0) |" in line


def test_every_network_runs_with_jemalloc_too(same_job):
  tuned = {name for name, _, jemalloc in same_job.SETTINGS.values() if jemalloc}
  assert tuned == {same_job.OURS, same_job.UNETR, same_job.SWIN}


def test_the_step_of_the_job_has_our_tasks_or_the_mask_alone(same_job):
  contestants = importlib.import_module("contestants")
  whole = contestants.our_config(10, 1e-3, 0, only_mask=False).loss
  alone = contestants.our_config(10, 1e-3, 0, only_mask=True).loss
  assert alone.dice == whole.dice > 0
  assert whole.numbering > 0
  assert alone.numbering == 0
  fields = same_job._windows(0)
  assert fields["image"].shape == (1, 96, 96, 96)
  assert {a.shape[0] for a in jax.tree.leaves(fields)} == {1}


def test_equal_time_says_who_is_better(same_job):
  equal_time = importlib.import_module("equal_time")
  dice = {same_job.OURS: 0.8, same_job.UNETR: 0.5, same_job.SWIN: 0.9}
  runs = [
    {
      "name": name, "seed": seed, "steps": 9, "rate": 1e-3, "cpu_s": 4.0,
      "dice": {"p1": value, "p2": value, equal_time.REAL: value},
    }
    for name, value in dice.items()
    for seed in range(3)
  ]  # fmt: skip
  pilots = [
    {"name": same_job.SWIN, "rate": rate, "dice": {"v": dice}}
    for rate, dice in ((4e-4, 0.5), (1e-3, 0.25))
  ]
  found = {
    "runs": runs, "pilots": pilots, "seconds": 12, "fresh": "others",
    "facts": _FACTS,
  }  # fmt: skip
  short = found | {"seconds": 7, "fresh": ""}
  results = {"accuracy": {"12, others": found, "7": short}}
  _, short, text = same_job.render(results).split("## Accuracy after ")
  assert short.startswith("7 s each\n")
  assert "makes in 7 s" in short
  assert "are those of the same store" in short
  assert text.startswith("12 s each, on fresh phantoms\n")
  assert "makes in 12 s" in text
  assert "by the Dice of 1 phantoms set aside" in text
  assert "are those of others" in text
  assert "| 2 held-out phantoms | MONAI UNETR | 0.500 [0.500, 0.500] |" in text
  assert "| +0.300 [0.300, 0.300] | 9 |" in text
  assert "| MONAI SwinUNETR | 0.900 [0.900, 0.900] | -0.100 [-0.100" in text
  assert "| MONAI SwinUNETR | 0.0004: 0.500, 0.001: 0.250 |" in text
  wide = equal_time.interval(np.array([[0.1, 0.9], [0.2, 0.8]]))
  assert wide == "[0.100, 0.900]"


@pytest.mark.parametrize(
  ("dice", "best"),
  [
    ({4e-4: 1, 1e-3: 3, 2.5e-3: 2, 6.3e-3: 4, 1.6e-2: 0}, 6.3e-3),
    ({4e-4: 1, 1e-3: 3, 2.5e-3: 2, 6.3e-3: 4, 1.6e-2: 5, 4e-2: 0}, 1.6e-2),
    (
      {6.4e-5: 0, 1.6e-4: 5, 4e-4: 4, 1e-3: 3, 2.5e-3: 2, 6.3e-3: 1, 1.6e-2: 0},
      1.6e-4,
    ),
  ],
)
def test_the_best_learning_rate_lies_inside_those_tried(dice, best):
  equal_time = importlib.import_module("equal_time")
  pilots, rate = equal_time.climb(
    lambda rate: {"rate": rate, "dice": {"v": dice[rate]}}
  )
  assert rate == best
  assert [p["rate"] for p in pilots] == sorted(dice)


@pytest.mark.parametrize("fresh", ["", "elsewhere"])
def test_another_seed_chooses_the_rate(tmp_path, monkeypatch, fresh):
  equal_time = importlib.import_module("equal_time")
  best = dict(zip(equal_time.NAMES, (1e-3, 2.5e-3, 6.3e-3)))

  def run_alone(script, *arguments):
    one = json.loads(arguments[-1])
    assert one["fresh"] == fresh
    near = -abs(np.log(one["rate"] / best[one["name"]]))
    return {"dice": {one["part"]: float(near)}}

  monkeypatch.setattr(equal_time.measuring, "run_alone", run_alone)
  (tmp_path / "store").mkdir()
  (tmp_path / "store" / "store.json").touch()
  steps = dict(zip(equal_time.NAMES, (30, 20, 10)))
  near = dict.fromkeys(equal_time.NAMES, 2.5e-3) if fresh else None
  found = equal_time.compare("s", [], tmp_path, steps, 2, fresh, near)
  assert {
    (run["name"], run["steps"], run["rate"], run["part"])
    for run in found["runs"]
  } == {(name, steps[name], best[name], "test") for name in best}
  assert [run["seed"] for run in found["runs"]] == [0, 0, 0, 1, 1, 1]
  tried = {
    name: [p["rate"] for p in found["pilots"] if p["name"] == name]
    for name in best
  }
  whole = list(equal_time._LADDER)
  assert list(tried.values()) == (
    [whole[:4], whole[1:4], whole[1:]] if fresh else [whole] * 3
  )
  assert {(p["seed"], p["part"]) for p in found["pilots"]} == {
    (equal_time._PILOT_SEED, "validation")
  }
  assert {p["steps"] for p in found["pilots"]} == {30, 20, 10}
  with pytest.raises(ValueError, match="of another comparison"):
    equal_time.compare("s", [], tmp_path, steps, 2, "a third", near)


def test_a_table_more_keeps_the_others(same_job, tmp_path, monkeypatch):
  equal_time = importlib.import_module("equal_time")
  rounds = _rounds(same_job, _SECONDS)
  results = {"speed": {"rounds": rounds}, "accuracy": {"3": "kept"}}
  (tmp_path / "same_job.json").write_text(json.dumps(results))
  asked = []

  def compare(script, stores, workdir, steps, seeds, fresh, near):
    asked.append((steps[same_job.OURS], fresh, near))
    return {}

  monkeypatch.setattr(equal_time, "compare", compare)
  monkeypatch.setattr(same_job, "render", lambda results: "")
  monkeypatch.setattr(same_job, "require_jemalloc", lambda: "")
  command = ["same_job", "accuracy", "--workdir", "w", "--out", str(tmp_path)]
  for more in ((), ("--fresh", "f", "--near", "1", "2", "3")):
    monkeypatch.setattr("sys.argv", [*command, "--seconds", "60", *more])
    same_job.main()
  # A step of ours takes 2 s.
  near = {same_job.OURS: 1.0, same_job.UNETR: 2.0, same_job.SWIN: 3.0}
  assert asked == [(30, "", None), (30, "f", near)]
  found = json.loads((tmp_path / "same_job.json").read_text())
  assert found["speed"] == results["speed"]
  assert found["accuracy"].keys() == {"3", "60", "60, f"}
  assert found["accuracy"]["3"] == "kept"
  fresh = found["accuracy"]["60, f"]
  assert (fresh["fresh"], fresh["seconds"]) == ("f", 60)


def _store(*names, real="", spacing_mm=2.0):
  """Phantoms of the domain of their first letter; without masks in c."""
  records = [
    types.SimpleNamespace(
      domain=name[0],
      mask_kind="network" if name == real else "synthetic",
      annotates=("masks",) if name[0] != "c" else (),
    )
    for name in names
  ]
  return types.SimpleNamespace(
    names=list(names), records=records, spacing_mm=spacing_mm
  )


def test_no_case_is_trained_on_and_judged(same_job):
  equal_time = importlib.import_module("equal_time")
  real = equal_time.REAL
  store = _store("a1", "a2", "a3", "b1", "b2", real, "c1", real=real)
  fresh = _store("a4", "c2", "b3")

  def judged(*arguments):
    found = equal_time.to_judge(store, *arguments)
    return [of.names[i] for of, i in found]

  train = [store.names[i] for i in equal_time.divide(store)["train"]]
  assert train == ["a1", "b1"]
  assert judged(None, "validation") == ["a2"]
  assert judged(None, "test") == ["a3", "b2", real]
  assert judged(fresh, "validation") == ["a2", "a3", "b2"]
  assert judged(fresh, "test") == [real, "a4", "b3"]


@pytest.mark.parametrize(
  "fresh",
  [
    _store("a1", "b3"),
    _store("a4", spacing_mm=1.0),
    _store("a4", "d1", real="d1"),
  ],
)
def test_fresh_phantoms_that_are_not_fresh_are_refused(same_job, fresh):
  equal_time = importlib.import_module("equal_time")
  real = equal_time.REAL
  store = _store("a1", "a2", "a3", real, real=real)
  with pytest.raises(ValueError, match="must be new"):
    equal_time.to_judge(store, fresh, "test")


def test_parts_of_the_recipe_stand_in_one_table(same_job):
  study = importlib.import_module("recipe_study")
  chest, demo = study.REAL
  runs = [
    {
      "setting": name if name in study.NAMES[:3] else f"{name}, torch.compile",
      "steps": 9, "seed": 0, "last_loss": 1.0,
      "dice": {"p1": 0.2, "p2": 0.4, demo: 0.5}
      | ({} if name == "default:-synthesis" else {chest: 0.6}),
    }
    for name in study.NAMES
  ]  # fmt: skip
  text = study.render({"facts": _FACTS, "seconds": 5, "runs": runs})
  assert "| default | 9 | 0.600 | 0.500 | 0.300 [0.200, 0.400] |" in text
  assert "| default:-synthesis | 9 | trained on | 0.500 | 0.300" in text
  assert "| MONAI BasicUNet | 9 | 0.600 |" in text


def test_a_goal_that_is_missed_is_called_so():
  overfit = importlib.import_module("overfit")
  result = {
    "facts": _FACTS, "case": "x", "spacing_mm": 2.0, "mask_kind": "expert",
    "steps": 5, "predict_s": 1.0, "train_wall_s": 60.0, "train_cpu_s": 90.0,
    "train_cores": 2, "dice": 0.95, "foreign": [],
    "vertebrae": [
      {"level": "L1", "cut": False, "found": ["L1"], "dice": 0.9},
      {"level": "L2", "cut": True, "found": [], "dice": 0.9},
    ],
  }  # fmt: skip
  text = overfit.render(result)
  assert "| vertebra Dice | >= 0.97 | 0.9500 | **no** |" in text
  assert "| whole vertebrae named exactly | all | 1 of 1 | yes |" in text
  assert "| < 10 | 0.8 | yes |" in text
  result["foreign"] = ["T1"]
  assert "| all | 1 of 1 | **no** |" in overfit.render(result)
