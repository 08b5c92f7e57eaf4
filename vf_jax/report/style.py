# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The style sheet of report pages: screen, phone, paper, light and dark."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2126; --soft: #5d6771; --line: #dfe3e7; --ground: #ffffff;
  --bar: #2f7fd0; --rail: #e6eaee; --alarm: #fff3d6; --alarm-line: #d99a00;
  --low: #b3261e;
  --tall: max(28rem, 100vh - 15rem);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7ea; --soft: #9aa5af; --line: #2c3339; --ground: #14181b;
    --bar: #56b4e9; --rail: #2a3138; --alarm: #362b10; --alarm-line: #e69f00;
    --low: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.25rem; max-width: 96rem; color: var(--ink);
  background: var(--ground); font: 15px/1.45 system-ui, sans-serif;
}
header { border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
header p { margin: .2rem 0 .8rem; color: var(--soft); }
h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
.warnings {
  background: var(--alarm); border-left: 4px solid var(--alarm-line);
  padding: .7rem 1rem; margin-bottom: 1rem;
}
.warnings ul { margin: 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
main { display: grid; gap: 1.5rem; }
main > * { min-width: 0; }
.pictures > label { margin: 0 1rem 0 .25rem; color: var(--soft); }
.pictures > input { accent-color: var(--bar); }
#masks:not(:checked) ~ .views .mask { display: none; }
#marks:not(:checked) ~ .views .marks { display: none; }
.views { display: flex; gap: .75rem; justify-content: center; }
figure {
  margin: .5rem 0 0; flex: var(--w) 1 0; min-width: 0;
  max-width: calc(var(--tall) * var(--w) / var(--h));
}
figcaption { color: var(--soft); font-size: .87rem; padding-top: .3rem; }
.view {
  position: relative; aspect-ratio: var(--w) / var(--h); background: #000;
  overflow: hidden; border-radius: 4px; print-color-adjust: exact;
}
.view > * {
  position: absolute; inset: 0; width: 100%; height: 100%; display: block;
}
svg { fill: none; font-family: system-ui, sans-serif; font-weight: 600; }
svg path { stroke-width: .6; }
svg text {
  dominant-baseline: central; paint-order: stroke; stroke: #000;
  stroke-width: .18em; stroke-linejoin: round;
}
svg .name { text-anchor: end; }
svg .side, svg .length, svg .number { fill: #fff; }
svg circle { stroke: #000; stroke-width: .4; }
svg .halo { stroke: #000; stroke-width: 1.8; }
svg .lesion { stroke: #fff; stroke-width: .9; }
svg .beside { stroke-dasharray: 2.5 1.8; }
svg .side { font-weight: 400; }
svg .length { font-weight: 400; text-anchor: end; font-size: .8em; }
svg .scale { stroke: #fff; stroke-width: .8; }
.findings h2:not(:first-child) { margin-top: 1.4rem; }
.wide { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  white-space: nowrap; font-size: .93rem;
}
th, td {
  padding: .2rem .55rem; text-align: left; border-bottom: 1px solid var(--line);
}
thead th { color: var(--soft); font-weight: 500; font-size: .87rem; }
.n { text-align: right; }
th small { color: inherit; }
thead td { padding: 0; border: 0; }
thead .g { text-align: right; border: 0; padding-bottom: 0; }
th.n, td.n { padding-left: .3rem; }
thead button {
  all: unset; cursor: pointer; display: inline-block; font-weight: 500;
}
thead button:focus-visible { outline: 2px solid var(--bar); }
thead button:hover { color: var(--ink); text-decoration: underline; }
thead [aria-sort] button { color: var(--ink); }
thead [aria-sort=ascending] button::after { content: "\\2191"; }
thead [aria-sort=descending] button::after { content: "\\2193"; }
tbody th, thead tr:last-child th:first-child {
  position: sticky; left: 0; background: var(--ground);
}
tbody th { font-weight: 600; }
.partial { color: var(--soft); }
.not { color: var(--ink); white-space: nowrap; }
.strip {
  list-style: none; display: grid; gap: .35rem .25rem; margin: 0 0 1.2rem;
  padding: 0; grid-template-columns: repeat(auto-fill, minmax(2.7rem, 1fr));
}
.strip li {
  text-align: center; font-size: .8rem; line-height: 1.25; display: grid;
  grid-template-rows: 2.4rem auto auto;
}
.strip span {
  display: flex; align-items: end; background: var(--rail);
  border-radius: 2px 2px 0 0; print-color-adjust: exact;
}
.strip i { flex: 1; min-height: 2px; print-color-adjust: exact; }
.strip b { border-top: 1px solid var(--soft); }
.strip small { color: var(--soft); white-space: nowrap; }
.strip .low b, .strip .low small { color: var(--low); font-weight: 700; }
.swatch {
  display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .5em; vertical-align: -.05em; print-color-adjust: exact;
}
.bar {
  display: inline-block; width: 3.2rem; height: .5em; margin-right: .5em;
  background: var(--rail); border-radius: 2px; overflow: hidden;
  vertical-align: .08em; print-color-adjust: exact;
}
.bar i { display: block; height: 100%; background: var(--bar); }
.percent { display: inline-block; min-width: 3.6em; text-align: right; }
.note { color: var(--soft); font-size: .87rem; }
details { margin-top: 1.4rem; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.note ul { margin: 0 0 .5rem; padding-left: 1.2rem; }
@media (min-width: 76rem) {
  main { grid-template-columns: minmax(26rem, 1fr) minmax(0, 49rem); }
  .pictures { position: sticky; top: .5rem; align-self: start; }
}
@media (max-width: 40rem) {
  body { padding: .8rem; }
  th, td { padding: .25rem .4rem; }
  .bar { width: 1.8rem; }
  .broad { flex-direction: column; align-items: center; }
  .broad figure {
    flex: none; width: min(100%, var(--tall) * var(--w) / var(--h));
  }
  .views { gap: .4rem; }
}
@media print {
  :root { color-scheme: light; --tall: 135mm; }
  body { padding: 0; font-size: 10pt; max-width: none; }
  main { display: block; }
  .pictures { position: static; margin-bottom: 1rem; }
  .pictures > input, .pictures > label { display: none; }
  figure, tr, .warnings, .sure { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  thead th { white-space: normal; }
  thead [aria-sort] button::after { content: none; }
  tbody th, thead tr:last-child th:first-child { position: static; }
  .bar { display: none; }
}
"""

INDEX_STYLE = """
.index td, .index tbody th { vertical-align: top; }
.index img {
  display: block; width: 8rem; max-height: 12rem; object-fit: contain;
  background: #000; border-radius: 4px;
}
.index a { color: var(--bar); }
.index .levels { white-space: normal; min-width: 16rem; }
.index td ul {
  margin: .2rem 0 0; padding-left: 1.1rem; color: var(--soft);
  font-size: .87rem; overflow-wrap: anywhere;
}
@media (max-width: 40rem) {
  .index img { width: 5rem; }
  .index .levels { min-width: 12rem; }
  .index tbody th span { overflow-wrap: anywhere; white-space: normal; }
}
"""
