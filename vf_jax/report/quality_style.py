# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Style and script that the page of a data set adds to those of a case."""

from __future__ import annotations

QUALITY_STYLE = """
:root { --error: #c0392b; --warning: #b87a00; --note: #5d6771; }
@media (prefers-color-scheme: dark) {
  :root { --error: #ff7a6b; --warning: #f0b429; --note: #9aa5af; }
}
.quality { display: flex; flex-direction: column; }
.quality > header { order: -2; }
.quality > form { order: -1; }
.quality form:not([hidden]) {
  position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap;
  gap: .5rem 1rem; align-items: center; padding: .5rem 0;
  background: var(--ground); border-bottom: 1px solid var(--line);
}
.quality form label { color: var(--soft); }
.quality input, .quality select {
  font: inherit; color: var(--ink); background: var(--ground); max-width: 12rem;
  border: 1px solid var(--line); border-radius: 4px; padding: .2rem .4rem;
}
.quality output { color: var(--soft); margin-left: auto; }
.quality main { display: block; }
.case {
  display: flex; gap: 1rem; padding: .9rem 0 .9rem .8rem;
  border-bottom: 1px solid var(--line); border-left: 4px solid transparent;
  content-visibility: auto; contain-intrinsic-size: auto 320px;
}
.case[hidden] { display: none; }
.case.has-error { border-left-color: var(--error); }
.case.has-warning { border-left-color: var(--warning); }
.case .picture { flex: 0 0 24rem; }
.case .picture img {
  display: block; max-width: 100%; height: auto; background: #000;
  border-radius: 4px; margin: 0 0 0 auto;
}
.case .text { min-width: 0; flex: 1; }
.case h2 { overflow-wrap: anywhere; }
.case ul { list-style: none; margin: 0 0 .6rem; padding: 0; }
.case li { overflow-wrap: anywhere; padding: .1rem 0; }
.case li b {
  font-weight: 600; display: inline-block; min-width: 4.2rem;
  color: var(--note);
}
.case li.error b { color: var(--error); }
.case li.warning b { color: var(--warning); }
.case p, .case li small { color: var(--soft); }
.case p { margin: 0 0 .6rem; }
.case dl { font-size: .87rem; align-content: start; }
@media (min-width: 64rem) {
  .case dl { grid-template-columns: auto 1fr auto 1fr; }
}
@media (max-width: 40rem) {
  .case { flex-direction: column; gap: .5rem; }
  .case .picture { flex: none; }
  .case .picture img { margin: 0; }
  .case dl { display: block; }
  .case dt, .case dd { display: inline; }
  .case dd::after { content: ";"; }
  .case dd:last-child::after { content: ""; }
  .quality form:not([hidden]) { position: static; }
}
@media print { .quality form { display: none !important; } }
"""

SCRIPT = """
"use strict";
const by = (id) => document.getElementById(id);
const list = by("cases");
const cases = [...list.children];
cases.forEach((row, i) => { row.dataset.order = i; });
const domains = [...new Set(cases.map((row) => row.dataset.domain))].sort();
for (const name of domains) by("domain").add(new Option(name, name));
const text = cases.map((row) => row.textContent.toLowerCase());
const compare = {
  order: (a, b) => a.order - b.order,
  worst: (a, b) => a.rank - b.rank,
  name: (a, b) => a.name.localeCompare(b.name, undefined, {numeric: true}),
  domain: (a, b) => a.domain.localeCompare(b.domain),
  levels: (a, b) => b.levels - a.levels,
};
function filter() {
  const words = by("find").value.toLowerCase().split(/\\s+/);
  const most = [3, 0, 1, 2][by("show").value];
  const domain = by("domain").value;
  let shown = 0;
  cases.forEach((row, i) => {
    const fits = row.dataset.rank <= most
      && (!domain || row.dataset.domain === domain)
      && words.every((word) => text[i].includes(word));
    row.hidden = !fits;
    shown += fits;
  });
  by("shown").value = shown + " of " + cases.length;
}
function sort() {
  const wanted = compare[by("sort").value];
  const rows = [...cases].sort((a, b) =>
    wanted(a.dataset, b.dataset) || a.dataset.order - b.dataset.order);
  list.append(...rows);
}
for (const id of ["find", "show", "domain"]) {
  by(id).addEventListener("input", filter);
}
by("sort").addEventListener("input", sort);
by("tools").addEventListener("submit", (event) => event.preventDefault());
by("tools").hidden = false;
filter();
"""
