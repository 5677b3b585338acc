"use strict";
// Sort a table by a column at a click on its heading; hide and show the columns of leaderboards.
const number = (cell) => {
  const text = cell.dataset.v ?? cell.textContent.trim();
  return text === "" || text === "-" ? NaN : Number(text);
};
const order = (a, b, column, down) => {
  const [x, y] = [a.cells[column], b.cells[column]];
  const [m, n] = [number(x), number(y)];
  if (Number.isNaN(m) && Number.isNaN(n)) {
    return x.textContent.localeCompare(y.textContent) * (down ? -1 : 1);
  }
  if (Number.isNaN(m) || Number.isNaN(n)) return Number.isNaN(m) ? 1 : -1; // those without: last
  return (m - n) * (down ? -1 : 1);
};
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => row.cells.length === headings.length);
        rows.sort((a, b) => order(a, b, column, down));
        body.append(...rows);
      }
    });
  });
}
for (const table of document.querySelectorAll("table.wide")) {
  const headings = [...table.tHead.rows[0].cells];
  if (headings.length < 6) continue;
  const set = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = "Columns";
  set.append(legend);
  headings.slice(1).forEach((heading, index) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      for (const row of table.rows) {
        if (row.cells.length === headings.length) row.cells[index + 1].hidden = !box.checked;
      }
    });
    const label = document.createElement("label");
    label.append(box, " ", heading.textContent);
    set.append(label);
  });
  const hide = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "Show or hide columns";
  hide.append(summary, set);
  table.parentElement.before(hide);
}
