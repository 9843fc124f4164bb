"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    const numeric = heading.dataset.kind === "number";
    const sign = ascending ? 1 : -1;
    const compare = (a, b) => {
      const first = value(a, column), second = value(b, column);
      // Cells without a value stay at the end either way.
      if (first === "" || second === "") return (first === "") - (second === "");
      return sign * (numeric ? first - second : first.localeCompare(second));
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}
