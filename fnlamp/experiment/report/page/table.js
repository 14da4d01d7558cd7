// The table of runs: sorted, filtered; its boxes show and hide curves.
const table = { body: document.querySelector("#table tbody"), matches: [], rows: [] };
const OPERATIONS = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

const cells = (column) => (column.kind === "metric" ? column[state.value] : column.last);
const number = (cell) => (cell === "nan" ? NaN : cell === "inf" ? Infinity : cell === "-inf" ? -Infinity : cell);

function prepareTable() {
  if (!table.body) return;
  table.rows = [...table.body.rows];
  table.texts = index.runs.map((run, i) => [run[0], run[1], ...columns.map((each) => each.last[i] ?? "")].join("\n").toLowerCase());
  for (const row of table.rows) row.cells[0].innerHTML = `<input type="checkbox" checked aria-label="Show ${escape(title(row.dataset.row))}">`;
  const heads = document.querySelectorAll("#table thead th");
  heads[0].innerHTML = '<input type="checkbox" checked aria-label="Show all listed runs">';
  for (const head of [...heads].slice(1)) {
    head.innerHTML = `<button type="button">${head.innerHTML}<span class="arrow" aria-hidden="true"></span></button>`;
    head.firstChild.addEventListener("click", () => {
      const key = Number(head.dataset.column) + 1;
      change({ sort: state.sort === key ? -key : state.sort === -key ? 0 : key });
    });
  }
  table.body.addEventListener("change", (event) => {
    const hidden = new Set(state.hidden), row = Number(event.target.closest("tr").dataset.row);
    if (event.target.checked) hidden.delete(row);
    else hidden.add(row);
    change({ hidden });
  });
  heads[0].firstChild.addEventListener("change", (event) => {
    const hidden = new Set(state.hidden), listed = [...index.runs.keys()].filter((row) => table.matches[row]);
    for (const row of listed) event.target.checked ? hidden.delete(row) : hidden.add(row);
    change({ hidden });
  });
}

// Which runs a filter takes: words in any cell, or comparisons such as learning_rate<0.01. Returns what it does not know.
function filter(text) {
  const terms = text.trim().split(/\s+/).filter(Boolean);
  let unknown = "";
  const tests = terms.map((term) => {
    const found = term.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/);
    if (!found) return (row) => table.texts[row].includes(term.toLowerCase());
    const [, name, operation, wanted] = found;
    const column = columns.find((each) => [each.label, `config.${each.label}`].includes(name)) ?? columns.find((each) => each.label.endsWith(`.${name}`));
    if (!column) { unknown = name; return () => false; }
    return (row) => compared(number(cells(column)[row]), operation, wanted);
  });
  table.matches = index.runs.map((_, row) => tests.every((test) => test(row)));
  return unknown;
}

function compared(cell, operation, wanted) {
  if (cell === null || cell === undefined) return false;
  const right = Number(wanted), test = OPERATIONS[operation];
  if (typeof cell !== "number") return test(String(cell), wanted);
  return !Number.isNaN(right) && test(cell, right);
}

function order(one, other) {
  const kinds = [one, other].map((cell) => (cell === null || cell === undefined ? 2 : typeof cell === "number" ? (Number.isNaN(cell) ? 1 : 0) : 0.5));
  if (kinds[0] !== kinds[1]) return { last: kinds[0] >= 1 || kinds[1] >= 1, by: kinds[0] - kinds[1] };
  return { last: false, by: typeof one === "number" ? one - other : String(one ?? "").localeCompare(String(other ?? "")) };
}

function updateTable() {
  if (!table.body) return;
  const unknown = filter(state.filter), shown = [...index.runs.keys()].filter(shownRun).length;
  const listed = table.matches.filter(Boolean).length;
  document.getElementById("count").textContent = unknown ? `No column is named ${unknown}.` : `${listed} of ${index.runs.length} listed, ${shown} drawn`;
  const rows = table.rows.map((row, i) => i);
  if (state.sort) {
    const column = columns[Math.abs(state.sort) - 1], values = cells(column).map(number), sign = Math.sign(state.sort);
    rows.sort((a, b) => {
      const { last, by } = order(values[a], values[b]);
      return (last ? by : sign * by) || a - b; // what is missing, and NaN, is at the end either way
    });
  }
  table.body.replaceChildren(...rows.map((i) => table.rows[i]));
  for (const [i, row] of table.rows.entries()) {
    row.hidden = !table.matches[i];
    row.cells[0].firstChild.checked = !state.hidden.has(i);
  }
  updateCells();
  for (const head of document.querySelectorAll("#table thead th[data-column]")) {
    const key = Number(head.dataset.column) + 1;
    head.setAttribute("aria-sort", state.sort === key ? "ascending" : state.sort === -key ? "descending" : "none");
  }
}

function updateCells() {
  if (table.value === state.value) return;
  for (const [at, column] of columns.entries()) {
    if (column.kind !== "metric") continue;
    for (const [i, row] of table.rows.entries()) {
      const cell = number(column[state.value][i]);
      row.cells[at + 1].textContent = cell === null ? "" : format(cell);
    }
  }
  table.value = state.value;
}
