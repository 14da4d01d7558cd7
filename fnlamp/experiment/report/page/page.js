// What the reader has chosen, kept in the address so that a view can be sent; the controls; the start.
const state = { x: "step", log: false, smooth: 0, zoom: null, filter: "", sort: 0, hidden: new Set(), theme: "", colour: 0, value: "last", metric: "" };
const FRESH = { ...state };
const drawn = new Map();
const control = (name) => document.getElementById(name);

// The attributes of a run's line: its colour and dashes, or the colour of a column's value.
function ink(run, classes) {
  const colour = state.colour ? paint.get(run) : "";
  return colour ? ` class="${classes} by" stroke="${colour}" color="${colour}"` : ` class="${classes} s${run % 8} d${Math.floor(run / 8) % 4}"`;
}

let paint = new Map();
let waiting = 0;

function repaint() {
  paint = new Map();
  if (!state.colour) return legend([]);
  const probe = document.body.appendChild(document.createElement("i"));
  const read = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
  const values = cells(columns[state.colour - 1]).map(number), numbers = values.filter((each) => typeof each === "number" && Number.isFinite(each));
  const ramp = [0, 1, 2, 3, 4].map((i) => read(`--ramp${i}`)), missing = read("--quiet");
  const low = Math.min(...numbers), high = Math.max(...numbers), log = low > 0 && high / low >= 50;
  const place = scale(low, high, 0, 4, log), kinds = [...new Set(values.map(String))];
  values.forEach((each, run) => {
    if (each === null || each === undefined || Number.isNaN(each)) paint.set(run, missing);
    else if (numbers.length > 0 && typeof each === "number") paint.set(run, mixed(ramp, low === high ? 2 : place(Math.min(Math.max(each, low), high))));
    else paint.set(run, read(`--s${kinds.indexOf(String(each)) % 8}`));
  });
  probe.remove();
  legend(numbers.length ? [low, high, ramp] : kinds.slice(0, 8).map((each) => [each, paint.get(values.map(String).indexOf(each))]));
}

// What the colours stand for.
function legend(what) {
  const [low, high, ramp] = what, place = control("legend");
  if (!place) return;
  if (typeof low === "number") {
    const strip = ramp.slice(0, 4).flatMap((_, i) => [0, 1, 2, 3].map((k) => `<path d="M${(i * 4 + k) * 7.5} 4h7.6" stroke="${mixed(ramp, i + k / 4)}" stroke-width="8"></path>`));
    place.innerHTML = `${format(low)}<svg viewBox="0 0 120 8" aria-hidden="true">${strip.join("")}</svg>${format(high)}`;
  } else place.innerHTML = what.map(([text, colour]) => `<span><svg class="swatch" viewBox="0 0 22 8" aria-hidden="true"><path class="line by" stroke="${colour}" d="M1 4H21"></path></svg>${escape(text)}</span>`).join("");
}

function mixed(ramp, at) {
  const i = Math.min(3, Math.floor(at)), part = at - i;
  const [from, to] = [ramp[i], ramp[i + 1]].map((colour) => colour.match(/[\d.]+/g).map(Number));
  const channels = from.slice(0, 3).map((each, k) => Math.round(each + (to[k] - each) * part));
  return `rgb(${channels.join(" ")})`;
}

function change(given) {
  if ("x" in given && given.x !== state.x) given.zoom = null;
  Object.assign(state, given);
  write();
  update("theme" in given || "colour" in given || "value" in given);
}

function update(colours = true) {
  document.documentElement.dataset.theme = state.theme;
  if (colours) repaint();
  updateTable();
  const words = state.metric.toLowerCase().split(/\s+/).filter(Boolean);
  for (const area of areas) area.closest("figure").hidden = !words.every((word) => panels[area.dataset.panel].name.toLowerCase().includes(word));
  for (const swatch of document.querySelectorAll("#table .swatch path")) {
    swatch.outerHTML = `<path${ink(Number(swatch.closest("tr").dataset.row), "line")} d="M1 4H21"></path>`;
  }
  showControls();
  for (const panel of drawn.values()) panel.stale = true;
  clearTimeout(waiting);
  waiting = setTimeout(redraw); // once for changes that follow each other at once
}

function redraw() {
  for (const panel of drawn.values()) {
    if (panel.stale && panel.near && !panel.figure.hidden) { panel.stale = false; panel.draw(); }
  }
}

function showControls() {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  control("theme").textContent = dark ? "Light" : "Dark";
  for (const radio of document.querySelectorAll('input[name="x"]')) radio.checked = radio.value === state.x;
  const values = { log: ["checked", state.log], smooth: ["value", state.smooth], colour: ["value", state.colour || ""], metric: ["value", state.metric], filter: ["value", state.filter], value: ["value", state.value] };
  for (const [name, [property, value]] of Object.entries(values)) {
    const found = control(name);
    if (found && String(found[property]) !== String(value)) found[property] = value;
  }
  if (control("smoothed")) control("smoothed").textContent = state.smooth;
  if (control("reset")) control("reset").disabled = !state.zoom && ![...drawn.values()].some((panel) => panel.yZoom);
}

function write() {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    if (key === "hidden") { if (value.size) parts.set(key, [...value].join(" ")); }
    else if (value !== FRESH[key]) parts.set(key, key === "zoom" ? value.join(" ") : value);
  }
  try { history.replaceState(null, "", `#?${parts}`); } catch { /* a viewer may forbid it */ }
}

function read() {
  if (!location.hash.startsWith("#?")) return;
  const parts = new URLSearchParams(location.hash.slice(2)), numbers = (text) => text.split(" ").map(Number);
  const column = (text) => (Math.abs(Math.trunc(Number(text))) <= columns.length ? Math.trunc(Number(text)) || 0 : 0);
  const readers = {
    x: (text) => (text in AXES ? text : "step"), log: (text) => text === "true", smooth: (text) => Math.min(0.99, Math.max(0, Number(text) || 0)),
    zoom: (text) => (numbers(text).length === 2 && numbers(text).every(Number.isFinite) && numbers(text)[0] < numbers(text)[1] ? numbers(text) : null),
    filter: String, metric: String, sort: column, colour: (text) => Math.abs(column(text)), hidden: (text) => new Set(numbers(text)),
    theme: (text) => (["light", "dark"].includes(text) ? text : ""), value: (text) => (["last", "low", "high"].includes(text) ? text : "last"),
  };
  for (const [key, reader] of Object.entries(readers)) if (parts.has(key)) state[key] = reader(parts.get(key));
}

function connect() {
  const on = (name, event, act) => control(name)?.addEventListener(event, act);
  for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
  for (const radio of document.querySelectorAll('input[name="x"]')) radio.addEventListener("change", () => change({ x: radio.value }));
  on("log", "change", (event) => change({ log: event.target.checked }));
  on("smooth", "input", (event) => change({ smooth: Number(event.target.value) }));
  on("colour", "change", (event) => change({ colour: Number(event.target.value) }));
  on("value", "change", (event) => change({ value: event.target.value }));
  on("metric", "input", (event) => change({ metric: event.target.value }));
  on("filter", "input", (event) => change({ filter: event.target.value }));
  on("reset", "click", resetZoom);
  on("theme", "click", (event) => change({ theme: event.target.textContent.toLowerCase() }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => update());
  control("theme").hidden = false;
  if (control("colour")) {
    const kinds = columns.flatMap((each, i) => (i && each.kind !== "run" ? [`<option value="${i + 1}">${escape(each.label)}</option>`] : []));
    control("colour").insertAdjacentHTML("beforeend", kinds.join(""));
    control("coloured").hidden = index.runs.length < 2;
  }
}

// The figures of a metric, when its list is opened: a page of hundreds of runs does not hold them as elements.
function fillNumbers(details) {
  const place = details.querySelector("div.numbers:empty"), panel = panels[details.closest("figure").querySelector(".plot").dataset.panel];
  if (!details.open || !place) return;
  place.innerHTML = panel.banded ? bandNumbers(panel) : curveNumbers(panel);
}

function numbersTable(heads, rows) {
  return `<table><thead><tr>${heads.map((each) => `<th scope="col">${each}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function bandNumbers(panel) {
  const [{ steps, lines }] = panel.curves, kept = BANDS.map(([line]) => line);
  const rows = [...steps[0]].map((step, i) => `<tr><th scope="row">${whole(step)}</th>${kept.map((k) => `<td>${format(lines[k][i])}</td>`).join("")}</tr>`);
  return numbersTable(["Step", ...BANDS.map(([, name]) => name)], rows);
}

function curveNumbers(panel) {
  const rows = panel.curves.map(({ run, numbers }) => {
    const [points, last, low, lowStep, high, highStep, broken] = numbers.map(number);
    const said = [whole(points), format(last), `${format(low)} at ${whole(lowStep)}`, `${format(high)} at ${whole(highStep)}`, broken];
    return `<tr><th scope="row"><bdi>${escape(title(run))}</bdi></th>${said.map((each) => `<td>${each}</td>`).join("")}</tr>`;
  });
  return numbersTable(["Run", "Points", "Last", "Lowest", "Highest", "Not finite"], rows);
}

const areas = [...document.querySelectorAll(".plot")];

function start() {
  document.documentElement.classList.add("scripted");
  read();
  prepareTable();
  connect();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) drawn.get(entry.target).near = entry.isIntersecting;
    redraw();
  }, { rootMargin: "300px" });
  for (const area of areas) {
    drawn.set(area, new Panel(area));
    area.closest("figure").querySelector("details").addEventListener("toggle", (event) => fillNumbers(event.target));
  }
  update();
  for (const area of areas) {
    const box = area.getBoundingClientRect();
    drawn.get(area).near = box.top < innerHeight + 300;
    watcher.observe(area);
  }
  redraw();
  new ResizeObserver(() => { for (const panel of drawn.values()) panel.stale = panel.stale || panel.width !== panel.area.clientWidth; redraw(); }).observe(document.body);
  document.querySelector(".panels")?.getBoundingClientRect();
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start();
