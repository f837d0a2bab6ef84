// Makes the page's tables sortable and filterable. Without it the page is whole.
"use strict";
(() => {
  const words = document.body.dataset;

  const NUMBER = /^[<>=~\s]*(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i;
  const collator = new Intl.Collator(document.documentElement.lang, { numeric: true });

  function value(row, column) {
    const text = row.cells[column].textContent.trim();
    const match = NUMBER.exec(text);
    return { text, number: match ? Number(match[1]) : NaN };
  }

  // Cells without a number come last in both directions; equal rows keep their order.
  function compare(numbers, direction) {
    return ([a], [b]) => {
      if (!numbers) return direction * collator.compare(a.text, b.text);
      if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
      return direction * (a.number - b.number);
    };
  }

  function sort(table, heading, column) {
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [value(row, column), row]);
    rows.sort(compare(heading.classList.contains("number"), direction));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  }

  function makeSortable(table) {
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = words.sort;
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading, column));
      heading.append(button);
    });
  }

  function makeFilterable(table, box) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    const line = document.createElement("div");
    input.type = "search";
    line.className = "filter";
    label.append(`${words.filter}: `, input);
    line.append(label, count);
    const rows = Array.from(table.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]);
    input.addEventListener("input", () => {
      const parts = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of rows) {
        row.hidden = !parts.every((part) => text.includes(part));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = parts.length ? `${shown} / ${rows.length} ${words.rows}` : "";
    });
    box.before(line);
  }

  const ROWS_WORTH_A_FILTER = 10;
  for (const box of document.querySelectorAll("div.table")) {
    const table = box.querySelector("table");
    const rows = table.tBodies[0].rows.length;
    if (rows > 1) makeSortable(table);
    if (rows >= ROWS_WORTH_A_FILTER) makeFilterable(table, box);
  }
})();
