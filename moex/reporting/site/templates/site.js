// Sorts a table by the column whose heading is pressed. Without JavaScript the tables are as they were written.
"use strict";

const NUMBER = /[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/;

function valueOf(cell, isNumber) {
  const text = cell.textContent.trim();
  if (!isNumber) return text;
  const found = text.match(NUMBER);
  return found ? parseFloat(found[0].replaceAll(",", "")) : NaN;
}

function compare(one, other, isNumber) {
  if (!isNumber) return one.localeCompare(other, "en", { numeric: true });
  // What is not there comes last, whichever way.
  return one - other;
}

function sort(table, column, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const isNumber = heading.classList.contains("number");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [row, valueOf(row.cells[column], isNumber)]);
  const there = rows.filter(([, value]) => !Number.isNaN(value));
  const absent = rows.filter(([, value]) => Number.isNaN(value));
  there.sort(([, one], [, other]) => (descending ? -1 : 1) * compare(one, other, isNumber));
  body.append(...[...there, ...absent].map(([row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    const first = table.tBodies[0].rows[0];
    // Tables that were made of Markdown do not say what is a number.
    if (!heading.classList.contains("number") && column > 0 && first && /^[-+<\d]/.test(first.cells[column].textContent)) {
      if (table.closest(".markdown")) heading.classList.add("number");
    }
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, column, heading));
    heading.append(button);
  });
}

// A link to a row inside something folded opens it.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details");
  if (folded) {
    folded.open = true;
    target.scrollIntoView();
  }
}
window.addEventListener("hashchange", reveal);
reveal();
