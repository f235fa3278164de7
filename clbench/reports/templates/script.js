"use strict";
// Tables sort by a column and filter by words; a page's #name shows the rows that bear it as a tag. Without scripts all rows stand there.
const FILTER_FROM = 6; // rows

function keyOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = text.match(/^[(<]*([+-]?\d+(?:\.\d+)?)/);
  return text === "-" || text === "" ? null : number ? Number(number[1]) : text.toLowerCase();
}

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return one.localeCompare(other);
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells], head = heads[column];
  const first = head.classList.contains("number") ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, column), row]);
  rows.sort(([one], [other]) => {
    if (one === null || other === null) return (one === null) - (other === null); // what is not there comes last
    return order === "ascending" ? compare(one, other) : compare(other, one);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(table, column));
    head.replaceChildren(button);
  });
}

function addTools(table) {
  const rows = [...table.tBodies[0].rows], folds = table.querySelectorAll("details");
  const tools = document.createElement("div");
  tools.className = "tools";
  let words = [], tag = "";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  const show = () => {
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word)) || (tag && !` ${row.dataset.tags} `.includes(` ${tag} `));
      shown += !row.hidden;
    }
    count.textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  };
  if (rows.length >= FILTER_FROM) {
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "Filter: words that a row must hold";
    input.setAttribute("aria-label", `Filter the rows of: ${table.parentElement.getAttribute("aria-label")}`);
    input.addEventListener("input", () => {
      words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      show();
    });
    tools.append(input, count);
  }
  if (folds.length > 1) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Unfold all";
    button.addEventListener("click", () => {
      const open = button.textContent === "Unfold all";
      for (const fold of folds) fold.open = open;
      button.textContent = open ? "Fold all" : "Unfold all";
    });
    tools.append(button);
  }
  if (tools.children.length) table.parentElement.before(tools);
  if (rows.some((row) => row.dataset.tags !== undefined)) {
    const follow = () => {
      tag = decodeURIComponent(location.hash.slice(1));
      if (!rows.some((row) => row.dataset.tags.split(" ").includes(tag))) tag = "";
      for (const link of document.querySelectorAll(".choices a")) {
        if (link.hash === `#${tag || "all"}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
      show();
    };
    addEventListener("hashchange", follow);
    follow();
  }
  show();
}

for (const table of document.querySelectorAll("table.sheet")) {
  if (table.tBodies[0].rows.length < 2) continue;
  makeSortable(table);
  addTools(table);
}
