
// report.py: shows what a cell says (its title) while the pointer or the keyboard is on it. Without it the page is the
// same, with the titles as the browser's own tips. Text is only ever set as text.
"use strict";

for (const maps of document.querySelectorAll(".maps")) {
  const tables = [...maps.querySelectorAll("table")];
  const twins = maps.querySelector(".twins") !== null; // exact, estimate, exact, estimate, ...
  const readout = document.createElement("p");
  const [place, numbers] = ["bdi", "b"].map((tag) => document.createElement(tag));
  const hint = "Point at a cell, or press Tab and then the arrow keys.";
  readout.className = "readout";
  readout.append(place, numbers);
  place.textContent = hint;
  maps.append(readout);

  let lit = []; // what is outlined now
  let held = null; // the cell that has the focus

  const at = (table, row, column) => table.tBodies[0].rows[row]?.cells[column + 1];
  const where = (cell) => [cell.parentNode.sectionRowIndex, cell.cellIndex - 1];

  function show(cell) {
    for (const element of lit) element.classList.remove("on");
    lit = [];
    readout.classList.toggle("on", Boolean(cell));
    const said = cell?.getAttribute("aria-label") ?? hint;
    const cut = cell ? said.lastIndexOf(": ") : said.length; // the numbers have no colon, a token may
    place.textContent = said.slice(0, cut);
    numbers.textContent = said.slice(cut + 2);
    if (!cell) return;
    const table = cell.closest("table");
    const [row, column] = where(cell);
    const index = tables.indexOf(table);
    for (const one of twins ? [tables[index - (index % 2)], tables[index - (index % 2) + 1]] : [table]) {
      lit.push(at(one, row, column), one.tBodies[0].rows[row].cells[0], one.tHead.rows[0].cells[column + 1]);
    }
    for (const element of lit) element.classList.add("on");
  }

  function focusable(table, cell) {
    for (const other of table.querySelectorAll("td[tabindex='0']")) other.tabIndex = -1;
    cell.tabIndex = 0;
  }

  for (const table of tables) {
    table.setAttribute("role", "grid");
    table.setAttribute("aria-readonly", "true");
    table.closest(".scroll").removeAttribute("tabindex"); // its cells are reached by Tab, and scroll with the focus
    for (const cell of table.querySelectorAll("td")) {
      cell.setAttribute("aria-label", cell.title);
      cell.removeAttribute("title");
      cell.tabIndex = -1;
    }
    table.querySelector("td").tabIndex = 0; // one stop for Tab in each map; inside, the arrows

    // pointermove, not pointerover: a page that scrolls under a resting pointer has not been pointed at
    table.addEventListener("pointermove", (event) => show(event.target.closest("td") ?? held));
    table.addEventListener("pointerleave", () => show(held));
    table.addEventListener("focusin", (event) => {
      held = event.target.closest("td");
      if (!held) return;
      focusable(table, held);
      show(held);
    });
    table.addEventListener("focusout", () => {
      held = null;
      show(null);
    });
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      if (!cell || event.altKey || event.metaKey || event.shiftKey) return;
      const [row, column] = where(cell);
      const [bottom, right] = [table.tBodies[0].rows.length - 1, table.tBodies[0].rows[0].cells.length - 2];
      const moves = {
        ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
        Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? bottom : row, right],
        PageUp: [0, column], PageDown: [bottom, column],
      };
      if (!(event.key in moves) || (event.ctrlKey && !["Home", "End"].includes(event.key))) return;
      event.preventDefault();
      const [down, across] = moves[event.key];
      at(table, Math.min(bottom, Math.max(0, down)), Math.min(right, Math.max(0, across))).focus();
    });
  }
}
