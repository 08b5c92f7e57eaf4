# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What all pages begin with."""

from __future__ import annotations

import base64
import hashlib
from html import escape


def head(
  title: str, style: str, script: str, images: str = "data:", meta: str = ""
) -> str:
  """Makes the start of a page, up to its body.

  A content policy forbids every request and every other script.

  Args:
    title: of the page.
    style: its CSS.
    script: the one script that it may run, by its hash.
    images: where its pictures may come from, in words of the policy.
    meta: more tags.

  Returns:
    The start of an HTML5 document.
  """
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src {images}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
{meta}<title>{escape(title)}</title>
<style>{style}</style>
</head>
"""
