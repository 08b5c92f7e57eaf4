# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The command line, with a predictor that needs no network.

[LOADING_SECONDS=N] quick_command.py CONFIG_JSON predict ...
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

from quick_predictor import Quick, no_report

from vf_jax import cli
from vf_jax.config import from_dict
from vf_jax.infer import predictor
from vf_jax.report import page


def main() -> int:
  config = from_dict(json.loads(pathlib.Path(sys.argv[1]).read_text()))
  quick = Quick(config=config, params={}, digest="2" * 64)

  def load(checkpoint):
    time.sleep(float(os.environ.get("LOADING_SECONDS", "0")))
    return quick

  predictor.load = load
  page.write_report = no_report
  return cli.main(sys.argv[2:])


if __name__ == "__main__":
  sys.exit(main())
