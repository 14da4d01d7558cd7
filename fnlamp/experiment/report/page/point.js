// Values under the pointer or at the keyboard's cursor, and zooming.
function listen(panel) {
  const { area } = panel;
  let drag = null;
  const at = (event) => {
    const box = area.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  area.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { from: at(event), tall: event.shiftKey };
    try { area.setPointerCapture(event.pointerId); } catch { /* an event that a script made has no pointer */ }
  });
  area.addEventListener("pointermove", (event) => {
    const place = at(event);
    if (drag && moved(drag, place)) select(panel, drag, place);
    else point(panel, ...place);
  });
  area.addEventListener("pointerup", (event) => {
    if (drag && moved(drag, at(event))) zoomed(panel, drag, at(event));
    drag = null;
    mark(panel);
  });
  area.addEventListener("pointercancel", () => { drag = null; mark(panel); });
  area.addEventListener("pointerleave", () => { if (!drag) leave(panel); });
  area.addEventListener("dblclick", resetZoom);
  area.addEventListener("blur", () => leave(panel));
  area.addEventListener("keydown", (event) => pressed(panel, event));
}

const moved = ({ from, tall }, to) => Math.abs(tall ? from[1] - to[1] : from[0] - to[0]) > 5;

function select(panel, { from, tall }, to) {
  const foot = panel.height - EDGE.bottom;
  const [x, y] = tall ? [EDGE.left, Math.min(from[1], to[1])] : [Math.min(from[0], to[0]), EDGE.top];
  const width = tall ? panel.width - EDGE.left - EDGE.right : Math.abs(from[0] - to[0]);
  const height = tall ? Math.abs(from[1] - to[1]) : foot - EDGE.top;
  panel.tip.hidden = true;
  panel.over.innerHTML = `<rect class="select" x="${x}" y="${y}" width="${width}" height="${height}"></rect>`;
}

function zoomed(panel, { from, tall }, to) {
  if (tall) {
    panel.yZoom = [panel.y.invert(Math.max(from[1], to[1])), panel.y.invert(Math.min(from[1], to[1]))];
    document.getElementById("reset").disabled = false;
    panel.draw();
  } else {
    const { left, right } = panel.limits;
    const [a, b] = [panel.x.invert(Math.min(from[0], to[0])), panel.x.invert(Math.max(from[0], to[0]))];
    change({ zoom: [Math.max(a, left), Math.min(b, right)] });
  }
}

function resetZoom() {
  for (const panel of drawn.values()) panel.yZoom = null;
  change({ zoom: null });
}

function leave(panel) {
  panel.cursor = null;
  panel.over.innerHTML = "";
  panel.tip.hidden = true;
  for (const path of panel.chart.querySelectorAll(".near")) path.classList.remove("near");
  panel.chart.classList.remove("dim");
}

// The bucket of a curve that is nearest to a place on the axis.
function nearest(places, x) {
  let low = 0, high = places.length - 1;
  while (high - low > 1) {
    const half = (low + high) >> 1;
    if (places[half] < x) low = half;
    else high = half;
  }
  return Math.abs(places[low] - x) <= Math.abs(places[high] - x) ? low : high;
}

function point(panel, pixelX, pixelY) {
  if (!panel.visible?.length) return;
  panel.cursor = { x: panel.x.invert(Math.min(Math.max(pixelX, EDGE.left), panel.width - EDGE.right)), pixelY };
  mark(panel);
}

function rowsAt(panel) {
  const { x, pixelY } = panel.cursor, reach = (panel.limits.right - panel.limits.left) / 20;
  const rows = panel.visible.map((each) => {
    const places = each.x[panel.axis], i = nearest(places, x);
    const value = each.mean[i], y = panel.log && !(value > 0) ? NaN : panel.y(value);
    return { each, i, value, y, place: places[i], far: pixelY === undefined ? 0 : Math.abs(y - pixelY) };
  }).filter(({ place }) => Math.abs(place - x) <= reach || panel.visible.length === 1);
  return rows.sort((one, other) => (Number.isNaN(one.far) - Number.isNaN(other.far)) || one.far - other.far);
}

// Draw the cursor, its dots and its values.
function mark(panel) {
  if (!panel.cursor || !panel.visible.length) { panel.over.innerHTML = ""; panel.tip.hidden = true; return; }
  const rows = rowsAt(panel), few = rows.slice(0, 8);
  const x = panel.x(rows.length ? rows[0].place : panel.cursor.x);
  const dots = few.filter(({ y }) => Number.isFinite(y)).map(({ each, place, y }) => `<circle${ink(each.run, "dot")} cx="${panel.x(place).toFixed(1)}" cy="${y.toFixed(1)}" r="3.5"></circle>`);
  panel.over.innerHTML = `<path class="cross" d="M${x.toFixed(1)} ${EDGE.top}V${panel.height - EDGE.bottom}"></path>${dots.join("")}`;
  panel.tip.innerHTML = tip(panel, rows, few);
  panel.tip.hidden = false;
  panel.tip.style.left = `${x > panel.width / 2 ? Math.max(0, x - panel.tip.offsetWidth - 12) : x + 12}px`;
  highlight(panel, rows[0]?.each.run);
}

const BANDS = [[8, "highest"], [6, "84.13 %"], [4, "median"], [2, "15.87 %"], [0, "lowest"]];

function value({ each, i }) {
  if (each.lines) return BANDS.map(([line, name]) => `${name} ${format(each.lines[line][i])}`).join(", ");
  const broken = each.broken.find(([first, last]) => first <= i && i <= last);
  const bad = broken ? (broken[2] ? "NaN" : "∞") : "";
  if (Number.isNaN(each.mean[i])) return bad || "NaN";
  const range = each.low[i] === each.high[i] ? "" : ` (${format(each.low[i])} to ${format(each.high[i])})`;
  return format(each.mean[i]) + range + (bad ? `, ${bad} beside it` : "");
}

function where(panel, { each, i, place }) {
  const [first, last] = [each.steps[0][i], each.steps[1][i]];
  const steps = first === last ? `Step ${whole(first)}` : `Steps ${whole(first)} to ${whole(last)}`;
  return panel.axis === "step" ? steps : `${steps} · ${panel.axis} ${AXES[panel.axis].text(place)}`;
}

function tip(panel, rows, few) {
  if (!rows.length) return "No value here";
  if (panel.banded) {
    const bands = BANDS.map(([line, name]) => `<tr><th>${name}</th><td class="n">${format(rows[0].each.lines[line][rows[0].i])}</td></tr>`);
    return `<p>${where(panel, rows[0])}</p><table>${bands.join("")}</table>`;
  }
  const lines = few.map((row) => `<tr><td><svg class="swatch" viewBox="0 0 22 8"><path${ink(row.each.run, "line")} d="M1 4H21"></path></svg></td><th><bdi>${escape(title(row.each.run))}</bdi></th><td class="n">${value(row)}</td></tr>`);
  const more = rows.length > few.length ? `<p>and ${rows.length - few.length} more, farther from the pointer</p>` : "";
  return `<p>${where(panel, rows[0])}</p><table>${lines.join("")}</table>${more}`;
}

function highlight(panel, run) {
  const several = panel.visible.length > 2 && panel.cursor?.pixelY !== undefined;
  for (const path of panel.chart.querySelectorAll(".near")) path.classList.remove("near");
  panel.chart.classList.toggle("dim", several);
  if (several) for (const path of panel.chart.querySelectorAll(`[data-run="${run}"]`)) path.classList.add("near");
}

function pressed(panel, event) {
  const { left, right } = panel.limits, width = right - left, key = event.key;
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  if (key in moves && event.shiftKey) change({ zoom: [left + (moves[key] * width) / 4, right + (moves[key] * width) / 4] });
  else if (key in moves) walk(panel, moves[key]);
  else if (key === "Home" || key === "End") { panel.cursor = { x: key === "Home" ? left : right }; mark(panel); say(panel); }
  else if (key === "+" || key === "=" || key === "-") {
    const middle = panel.cursor?.x ?? (left + right) / 2, half = key === "-" ? width : width / 4;
    change({ zoom: [middle - half, middle + half] });
  } else if (key === "Escape" || key === "0") { leave(panel); resetZoom(); }
  else return;
  event.preventDefault();
}

function walk(panel, by) {
  if (!panel.visible.length) return;
  const places = panel.visible[0].x[panel.axis];
  const i = panel.cursor ? nearest(places, panel.cursor.x) + by : by > 0 ? 0 : places.length - 1;
  panel.cursor = { x: places[Math.min(Math.max(i, 0), places.length - 1)] };
  mark(panel);
  say(panel);
}

function say(panel) {
  const rows = rowsAt(panel).slice(0, 8);
  const each = rows.map((row) => `${title(row.each.run)} ${value(row)}`);
  document.getElementById("said").textContent = rows.length ? `${panel.name}, ${where(panel, rows[0])}: ${each.join("; ")}` : "No value here";
}
