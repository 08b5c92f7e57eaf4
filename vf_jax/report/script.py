# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The one script of report pages: tables sorted by a click on a heading.

Without it (scripts off, or a mail program) the page shows the same tables in
their first order. A page allows this script alone, by its hash.
"""

SCRIPT = """
"use strict";
const text = (row, i) => {
  const cell = row.cells[i];
  const value = cell.dataset.value;
  return (value === undefined ? cell.textContent : value).trim();
};
const compare = (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");
  const x = Number(a), y = Number(b);
  if (!isNaN(x) && !isNaN(y)) return x - y;
  return a.localeCompare(b, undefined, {numeric: true});
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...[...table.tHead.rows].at(-1).cells];
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = down ? "descending" : "ascending";
      const body = table.tBodies[0];
      const rows = [...body.rows];
      rows.sort((a, b) => {
        const x = text(a, i), y = text(b, i);
        const order = compare(x, y);
        return down && x !== "" && y !== "" ? -order : order;
      });
      body.append(...rows);
    });
  });
}
"""
