# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over its debugging pipe with the library alone.

Messages are JSON ended by a zero byte: commands on file descriptor 3 of the
browser, answers and events on 4 (Chrome DevTools Protocol).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser():
  """Path of a Chromium, or an error that says how to get one."""
  for name in NAMES:
    path = shutil.which(name)
    if path:
      return path
  raise FileNotFoundError(
    "these tests need Chromium on the PATH, e.g. apt-get install chromium"
  )


class Tab:
  """One page of the browser.

  Attributes:
    faults: messages of the console and of failed loads and scripts.
  """

  def __init__(self, read, write):
    self._read, self._write = read, write
    self._buffer, self._number = b"", 0
    self.session, self.faults, self._loaded = None, [], False

  def ask(self, method, **params):
    """Sends a command and waits for its answer."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self.session:
      message["sessionId"] = self.session
    os.write(self._write, json.dumps(message).encode() + b"\0")
    number = self._number
    while True:
      answer = self._next(60)
      if answer.get("id") == number:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

  def _next(self, seconds):
    end = time.monotonic() + seconds
    while b"\0" not in self._buffer:
      left = end - time.monotonic()
      if left <= 0 or not select.select([self._read], [], [], left)[0]:
        raise TimeoutError("the browser does not answer")
      part = os.read(self._read, 1 << 20)
      if not part:
        raise EOFError("the browser has ended")
      self._buffer += part
    line, _, self._buffer = self._buffer.partition(b"\0")
    message = json.loads(line)
    self._note(message)
    return message

  def _note(self, message):
    method, params = message.get("method"), message.get("params", {})
    if method == "Page.loadEventFired":
      self._loaded = True
    elif method == "Runtime.exceptionThrown":
      self.faults.append(params["exceptionDetails"]["text"])
    elif method == "Log.entryAdded":
      if params["entry"]["level"] in ("error", "warning"):
        self.faults.append(params["entry"]["text"])
    elif method == "Runtime.consoleAPICalled":
      if params["type"] in ("error", "warning", "assert"):
        self.faults.append(str(params["args"]))

  def open(self, path, width, height=900):
    """Loads a file into a window of a size, in CSS pixels."""
    self.ask(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=2 if width < 600 else 1,
      mobile=width < 600,
    )
    self._loaded = False
    self.ask("Page.navigate", url=path.resolve().as_uri())
    while not self._loaded:
      self._next(60)

  def run(self, script):
    """The value of an expression in the page."""
    answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
    if "exceptionDetails" in answer:
      raise RuntimeError(answer["exceptionDetails"])
    return answer["result"].get("value")

  def picture(self, path, whole=True):
    """Writes a PNG of the page."""
    answer = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
    path.write_bytes(base64.b64decode(answer["data"]))

  def print_pdf(self, path):
    """Writes the page as it is printed, A4."""
    answer = self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
    path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def open_browser(folder):
  """Starts a browser whose profile lies in a folder of the test."""
  to_read, to_write = os.pipe()
  from_read, from_write = os.pipe()
  command = [
    find_browser(),
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    f"--user-data-dir={folder}",
    "about:blank",
  ]
  # The shell puts our ends where the browser looks for them: 3 and 4.
  line = f'exec "$@" 3<&{to_read} 4>&{from_write}'
  process = subprocess.Popen(
    ["bash", "-c", line, "bash", *command],
    pass_fds=(to_read, from_write),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  os.close(to_read)
  os.close(from_write)
  try:
    tab = Tab(from_read, to_write)
    targets = tab.ask("Target.getTargets")["targetInfos"]
    page = next(t["targetId"] for t in targets if t["type"] == "page")
    tab.session = tab.ask("Target.attachToTarget", targetId=page, flatten=True)[
      "sessionId"
    ]
    for domain in ("Page", "Runtime", "Log"):
      tab.ask(f"{domain}.enable")
    yield tab
  finally:
    process.terminate()
    process.wait(20)
    os.close(from_read)
    os.close(to_write)
