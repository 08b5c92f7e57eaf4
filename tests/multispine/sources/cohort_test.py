# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pathlib
import re

import pytest
import yaml

from vf_jax.errors import InputError, InputWarning
from vf_jax.multispine.case import Case
from vf_jax.multispine.sources import cohort, find_cases, recognise
from vf_jax.multispine.sources.cohort_entry import KEYS

REPOSITORY = pathlib.Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "docs" / "cohort.example.yaml"
TEN = REPOSITORY / "tests" / "data" / "cohort.yaml"


def touch_named_files(text, root):
  """Makes every file that a cohort file speaks of."""
  for name in re.findall(r"[\w./{}*-]+/[\w./{}*-]+", text):
    if "*" not in name and "{" not in name and not name.startswith("/"):
      path = root / name
      path.parent.mkdir(parents=True, exist_ok=True)
      if path.suffix:
        path.touch()
      else:
        path.mkdir(exist_ok=True)


def write(root, text):
  path = root / "cohort.yaml"
  path.write_text(text)
  return path


@pytest.fixture
def one(make_tree):
  """Finds the cases of one entry in flow style, with a.nii.gz beside it."""

  def make(entry, *files, defaults=""):
    root = make_tree("a.nii.gz", *files)
    text = f"defaults: {{domain: d{defaults}}}\ncases:\n  - {{{entry}}}\n"
    return find_cases("cohort", write(root, text))

  return make


def test_the_example_is_read_and_names_every_key(tmp_path):
  text = EXAMPLE.read_text()
  touch_named_files(text, tmp_path)
  for name in ("x/p1_late_ct", "masks/p1_late", "y/z/p2_early_ct"):
    path = tmp_path / "batch2" / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  (tmp_path / "batch2/masks/p2_early.nii.gz").touch()
  (tmp_path / "batch2/points").mkdir()
  (tmp_path / "batch2/points/p1_late_ctd.json").touch()
  cases = {c.name: c for c in find_cases("cohort", EXAMPLE, root=tmp_path)}
  assert list(cases) == [
    "a-0001",
    "a-0002",
    "a-0003",
    "b-p1-late",
    "b-p2-early",
  ]
  first = cases["a-0001"]
  assert first.scanner["kvp"] == "120"
  assert first.mask.recode == {118: 117}
  assert (first.margin_mm, first.seed, first.split) == (70.0, 17, "train")
  assert cases["a-0002"].image.is_dir()
  assert list(cases["a-0002"].mask.paths) == ["L1", "L2", "sacrum"]
  assert cases["a-0002"].centroids.kind == "body"
  assert cases["a-0003"].background_boxes[0][1] == (-65.5, -20.4, -282.3)
  assert cases["a-0003"].lesions.key == "a-0003.nii.gz"
  assert cases["b-p1-late"].centroids is not None
  assert cases["b-p2-early"].centroids is None
  assert cases["b-p2-early"].subject == "p2"
  content = yaml.safe_load(text)
  named = set(content["defaults"]).union(*content["cases"])
  assert named == set(KEYS)


def test_every_field_of_a_case_can_be_said():
  said_by_the_reader = {"source"}
  assert set(Case.__dataclass_fields__) - said_by_the_reader <= {
    *KEYS,
    "name",  # case
  }


def test_the_cases_of_the_test_store(tmp_path, monkeypatch):
  touch_named_files(TEN.read_text(), tmp_path)
  monkeypatch.setenv("VF_JAX_DATA", str(tmp_path))
  cases = {case.name: case for case in find_cases("cohort", TEN)}
  store = REPOSITORY / "tests/data/store/cases"
  assert {path.name for path in store.iterdir()} == set(cases)
  assert len(cases) == 10
  assert cases["lidc-idri-0001"].mask_kind == "network"
  assert cases["sub-verse004"].seed == 4
  assert len(cases["blds-6"].background_boxes) == 3
  assert cases["blds-6"].mask_kind == "expert"
  assert "by eye" in cases["blds-6"].notes[0]
  assert cases["blds-7"].mask_kind == "none"
  assert cases["blds-7"].annotates == {"lesions"}


def test_a_variable_that_is_not_set_is_named(monkeypatch):
  monkeypatch.delenv("VF_JAX_DATA", raising=False)
  with pytest.raises(InputError, match="VF_JAX_DATA, which is not set"):
    find_cases("cohort", TEN)


def test_words_of_yaml_stay_words(one):
  (case,) = one(
    "case: 001, mask: a.nii.gz, subject: no, series: 2026-01-02, licence: 1e3,"
    " domain: on"
  )
  assert (case.name, case.subject, case.series) == ("001", "no", "2026-01-02")
  assert (case.licence, case.domain) == ("1e3", "on")


def test_what_is_left_out_follows_from_the_files(one):
  (case,) = one("case: x, mask: a.nii.gz")
  assert (case.mask_kind, case.annotates) == ("expert", {"masks", "levels"})
  assert (case.subject, case.licence) == ("d/x", "unknown")
  (case,) = one("case: x, image: a.nii.gz, centroids: p.lml", "p.lml")
  assert (case.centroids.format, case.annotates) == ("lml", {"levels"})
  in_world = "case: x, image: a.nii.gz, centroids: p.lml, centroid_format: "
  (case,) = one(in_world + "lml-ras", "p.lml")
  assert case.centroids.format == "lml-ras"
  (case,) = one("case: x, image: a.nii.gz, lesions: t.csv", "t.csv")
  assert (case.lesions.key, case.annotates) == ("a.nii.gz", {"lesions"})
  assert case.mask_kind == "none"
  (case,) = one("case: x, mask: a.nii.gz, annotates: []")
  assert case.annotates == frozenset()


def test_a_case_without_a_subject_is_a_patient_of_its_site(make_tree):
  root = make_tree("a.nii.gz")
  text = """
defaults: {{domain: {site}, mask: a.nii.gz}}
cases: [{{case: '1'}}, {{case: '2'}}, {{case: 2-late, subject: '2'}}]
"""
  x, y = (
    find_cases("cohort", write(root, text.format(site=site)))
    for site in ("site-x", "site-y")
  )
  assert [case.subject for case in x] == ["site-x/1", "2", "2"]
  assert [case.subject for case in y] == ["site-y/1", "2", "2"]


def test_images_without_any_annotation_are_left_out_with_a_warning(make_tree):
  root = make_tree("ct/a.nii.gz", "ct/b.nii.gz", "ct/c.nii.gz", "seg/a.nii.gz")
  text = """
defaults: {domain: d, optional: [mask], annotates: [masks, levels]}
cases:
  - {image: "ct/{case}.nii.gz", mask: "seg/{case}.nii.gz"}
"""
  with pytest.warns(InputWarning, match=r"2 left out: no annotation \(b, c\)"):
    (case,) = find_cases("cohort", write(root, text))
  assert case.name == "a"
  text = """
defaults: {domain: d, image: "ct/{case}.nii.gz"}
cases:
  - {case: b, background_boxes: [[[0, 0, 0], [1, 1, 1]]]}
  - {case: c, annotates: [lesions]}
"""
  assert len(find_cases("cohort", write(root, text))) == 2


def test_an_optional_lesion_table_that_is_not_there_is_no_table_of_none(one):
  rest = "mask: a.nii.gz, optional: [lesions], annotates: [masks, lesions]"
  (case,) = one(f"case: x, lesions: t/boxes.csv, {rest}")
  assert (case.lesions, case.annotates) == (None, {"masks"})
  assert case.notes == (
    "boxes.csv does not exist: nothing is known of its lesions.",
  )
  (case,) = one(f"case: x, lesions: ~, {rest}", defaults=", lesions: t.csv")
  assert (case.lesions, case.annotates) == (None, {"masks", "lesions"})
  assert case.notes == ()


def test_defaults_and_placeholders_of_named_cases(make_tree):
  root = make_tree("ct/a.nii.gz", "ct/b.nii.gz", "seg/a.nii.gz")
  text = """
defaults: {domain: d, image: "ct/{case}.nii.gz", mask: "seg/{case}.nii.gz"}
cases:
  - {case: a}
  - {case: b, mask: , annotates: [lesions]}
"""
  a, b = find_cases("cohort", write(root, text))
  assert a.mask.path == root / "seg/a.nii.gz"
  assert b.image == root / "ct/b.nii.gz"
  assert b.mask is None


def test_folders_of_dicom_are_found(make_tree):
  root = make_tree("dicom/p1/1.dcm", "dicom/p2/1.dcm", "dicom/readme.txt")
  text = "cases: [{domain: d, image: 'dicom/{case}', annotates: [lesions]}]"
  cases = find_cases("cohort", write(root, text))
  assert [case.name for case in cases] == ["p1", "p2"]
  assert cases[0].image == root / "dicom/p1"


def test_a_folder_with_the_file_is_a_cohort(make_tree):
  root = make_tree("sub-verse004_seg-vert_msk.nii.gz")
  write(root, "cases: [{domain: d, mask: '{case}_seg-vert_msk.nii.gz'}]")
  assert recognise(root) == "cohort"
  assert recognise(root / "cohort.yaml") == "cohort"
  (case,) = find_cases("cohort", root)
  assert case.name == "sub-verse004"


@pytest.mark.parametrize(
  ("entry", "fault"),
  [
    ("case: x, imgae: a.nii.gz", "no key 'imgae'.*did you mean 'image'"),
    ("case: x, image: b.nii.gz", r"case x: image .*b\.nii\.gz does not exist"),
    ("case: x, image: a.nii.gz, annotates: [mask]", "'mask'.*mean 'masks'"),
    ("case: x, mask: a.nii.gz, mask_kind: by eye", "mask_kind is 'by eye'"),
    ("case: x, mask: a.nii.gz, scheme: verses", "did you mean 'verse'"),
    ("case: x, mask: a.nii.gz, split: val", "split is 'val'"),
    ("case: x, mask: a.nii.gz, recode: {1: L1}", "recode holds 'L1'"),
    ("case: x, mask: {L9: a.nii.gz}", "L9"),
    ("case: x, mask: {L1: a.nii.gz}, scheme: verse", "one mask a vertebra"),
    ("case: x, image: a.nii.gz, seed: 1.5", "seed holds '1.5'"),
    ("case: x, image: a.nii.gz, margin_mm: nan", "margin_mm holds 'nan'"),
    ("case: x, image: a.nii.gz, margin_mm: -50", "margin_mm is -50"),
    ("case: x, mask: a.nii.gz, recode: {20: 300}", "recode makes 20 300"),
    ("case: x, mask: a.nii.gz, recode: {20: -1}", "recode makes 20 -1"),
    (
      "case: x, mask: {L1: a.nii.gz}, tissues: totalsegmentator",
      "tissues: totalsegmentator and one mask a vertebra",
    ),
    (
      "case: x, mask: a.nii.gz, tissues: totalsegmentator, scheme: tptbox",
      "a mask of the scheme tptbox",
    ),
    (
      "case: x, mask: a.nii.gz, tissues: totalsegmentator",
      "a mask of the scheme verse",
    ),
    (
      "case: x, image: a.nii.gz, tissues: totalsegmentator",
      "tissues: totalsegmentator and no mask",
    ),
    (
      "case: x, image: a.nii.gz, background_boxes: [[1, 2]]",
      "background_boxes",
    ),
    ("case: x, image: a.nii.gz, optional: [seed]", "optional is 'seed'"),
    ("case: x, image: [a.nii.gz]", "image is no path"),
    ("case: x, domain: , image: a.nii.gz", "domain is missing"),
    ("case: x", "neither image nor mask"),
    ("case: ../x, image: a.nii.gz", "no name for a folder"),
    ("image: a.nii.gz", "names no placeholder"),
    ("image: '{patient}.nii.gz'", r"has \{patient\}"),
    ("image: '{case}.mhd'", "no file below"),
    ("case: '{series}', image: '{subject}.nii.gz', case: y", "there twice"),
  ],
)
def test_faults_name_case_and_key(one, entry, fault):
  with pytest.raises(InputError, match=fault):
    one(entry)


@pytest.mark.parametrize(
  ("text", "fault"),
  [
    ("cases: [", "is no YAML"),
    ("- a", "no mapping"),
    ("cases: []", "no list of cases"),
    ("cases: [a]", "case 1: is no mapping"),
    ("case: []", "did you mean 'cases'"),
    ("root: nowhere\ncases: [{case: x}]", "nowhere is no folder"),
    ("a: &a [*a]\ncases: []", "aliases"),
    ("defaults: {x: 1}\ncases: [{case: x}]", "defaults: there is no key 'x'"),
  ],
)
def test_faults_of_the_file(make_tree, text, fault):
  with pytest.raises(InputError, match=fault):
    find_cases("cohort", write(make_tree(), text))


def test_twins_are_refused(make_tree):
  root = make_tree("x/a.nii.gz", "y/A.nii.gz")
  text = "cases: [{domain: d, image: '**/{case}.nii.gz'}]"
  with pytest.raises(InputError, match="twice"):
    find_cases("cohort", write(root, text))


def test_a_folder_without_the_file_is_refused(make_tree):
  with pytest.raises(InputError, match=r"holds no cohort\.yaml"):
    cohort.find(make_tree())
