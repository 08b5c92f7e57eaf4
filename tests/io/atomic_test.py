# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A file is there in full or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys

import pytest

from vf_jax.errors import InputError
from vf_jax.io import atomic


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
  path = tmp_path / "bericht ü.txt"
  atomic.write_text(path, "één\n")
  assert path.read_bytes() == "één\n".encode()
  atomic.write_bytes(path, b"two")
  assert path.read_bytes() == b"two"
  assert names(tmp_path) == [path.name]


def test_bytes_of_a_name_that_are_no_text_are_written_as_escapes(tmp_path):
  path = tmp_path / "a.json"
  name = b"M\xfcller ".decode("utf-8", "surrogateescape") + "ü"
  atomic.write_text(path, json.dumps({"case": name}, ensure_ascii=False))
  assert path.read_bytes() == r'{"case": "M\udcfcller ü"}'.encode()
  assert json.loads(path.read_text("utf-8")) == {"case": name}


def test_permissions_follow_umask_and_the_old_file(tmp_path):
  path = tmp_path / "a"
  old = os.umask(0o027)
  try:
    atomic.write_bytes(path, b"1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    atomic.write_bytes(path, b"2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
  finally:
    os.umask(old)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(tmp_path, kind):
  path = tmp_path / "a"
  path.write_bytes(b"old")

  def fail():
    with atomic.atomic_write(path) as file:
      file.write(b"half")
      raise kind("stop")

  with pytest.raises(kind):
    fail()
  assert path.read_bytes() == b"old"
  assert names(tmp_path) == ["a"]


def test_full_disk_is_explained(tmp_path):
  path = tmp_path / "a"
  full = OSError(errno.ENOSPC, "No space left on device")
  with pytest.raises(InputError, match="No space left") as caught:
    with atomic.atomic_write(path):
      raise full
  assert "free space" in caught.value.fix
  assert names(tmp_path) == []


def test_errors_of_other_files_pass(tmp_path):
  with pytest.raises(FileNotFoundError):
    with atomic.atomic_write(tmp_path / "a"):
      open(tmp_path / "other")
  assert names(tmp_path) == []


def test_missing_folder_and_folder(tmp_path):
  with pytest.raises(InputError, match="cannot be written") as caught:
    atomic.write_bytes(tmp_path / "no" / "a", b"")
  assert "mkdir" in caught.value.fix
  with pytest.raises(InputError, match="is a folder"):
    atomic.write_bytes(tmp_path, b"")


def test_symbolic_link_is_followed(tmp_path):
  goal = tmp_path / "goal"
  goal.write_bytes(b"old")
  link = tmp_path / "link"
  link.symlink_to(goal)
  atomic.write_bytes(link, b"new")
  assert link.is_symlink()
  assert goal.read_bytes() == b"new"


def test_row_76_killed_in_mid_write(tmp_path):
  path = tmp_path / "a"
  path.write_bytes(b"old")
  code = (
    "import os, signal, sys\n"
    "from vf_jax.io.atomic import atomic_write\n"
    "with atomic_write(sys.argv[1]) as file:\n"
    "  file.write(b'half')\n"
    "  file.flush()\n"
    "  os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  done = subprocess.run([sys.executable, "-c", code, os.fspath(path)])
  assert done.returncode == -9
  assert path.read_bytes() == b"old"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [2, 3])
def test_ctrl_c_between_the_renames_leaves_a_whole_folder(
  tmp_path, monkeypatch, number, moment
):
  """The second rename takes the old folder away, the third brings the new."""
  part, target = tmp_path / ".a.part", tmp_path / "a"
  for folder, text in ((part, "new"), (target, "old")):
    folder.mkdir()
    (folder / "run.json").write_text(text)
  rename, calls = os.replace, []

  def stopped(source, goal):
    calls.append(goal)
    if len(calls) != number:
      return rename(source, goal)
    if moment == "after":
      rename(source, goal)
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", stopped)
  with pytest.raises(KeyboardInterrupt):
    atomic.replace_folder(part, target)
  done = (number, moment) == (3, "after")
  assert (target / "run.json").read_text() == ("new" if done else "old")
  assert names(tmp_path) == (["a"] if done else [".a.part", "a"])


def test_an_old_folder_that_cannot_be_put_back_is_kept(tmp_path, monkeypatch):
  part, target = tmp_path / ".a.part", tmp_path / "a"
  for folder, text in ((part, "new"), (target, "old")):
    folder.mkdir()
    (folder / "run.json").write_text(text)
  rename = os.replace

  def broken(source, goal):
    if goal == target and not target.exists():
      raise OSError(errno.EIO, "Input/output error")
    rename(source, goal)

  monkeypatch.setattr(os, "replace", broken)
  with pytest.raises(OSError, match="Input/output"):
    atomic.replace_folder(part, target)
  (kept,) = tmp_path.glob(f".a.*{atomic.OLD}")
  assert (kept / "run.json").read_text() == "old"
