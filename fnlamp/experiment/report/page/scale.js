// Numbers as text, and axes.
function format(number) {
  if (Number.isNaN(number)) return "NaN";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return number.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(number.toPrecision(4)));
}

const whole = (number) => Math.round(number).toLocaleString("en");

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const unitOf = (seconds) => UNITS.find(([size]) => seconds >= 2 * size) ?? UNITS.at(-1);

function duration(seconds) {
  const [size, unit] = unitOf(Math.abs(seconds));
  return `${format(seconds / size)} ${unit}`;
}

const AXES = {
  step: { label: "step", text: whole },
  epoch: { label: "epoch", text: format },
  time: { label: "time since the first value", text: duration },
};

// Round numbers from low to high, about so many of them.
function ticks(low, high, count, unit = 1, least = 0) {
  const raw = (high - low) / unit / count;
  if (!(raw > 0) || !Number.isFinite(raw)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(least, power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.75));
  const found = [];
  const end = Math.min((high / unit) * (1 + 1e-12) + 1e-12 * step, Number.MAX_VALUE);
  for (let i = Math.ceil(low / unit / step - 1e-9); i * step <= end && found.length < 50; i++) {
    found.push(Number((i * step).toPrecision(12)) * unit);
  }
  return found;
}

function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.max(1, Math.ceil((last - first) / count));
  const factors = last - first <= 2 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = first; power <= last; power += every) for (const factor of factors) found.push(factor * 10 ** power);
  const inside = found.filter((each) => each > 0 && each < Infinity && each >= low * 0.999 && each <= high * 1.001);
  return inside.length > 1 ? inside : ticks(low, high, count);
}

// From a number to a place between two pixels.
function scale(low, high, from, to, log = false) {
  const change = log ? Math.log10 : (number) => number;
  const back = log ? (number) => 10 ** number : (number) => number;
  const start = change(low) / 2, width = change(high) / 2 - start || 1; // halves: a difference of large numbers may be infinite
  const place = (number) => from + (to - from) * ((change(number) / 2 - start) / width);
  place.invert = (pixel) => back(2 * (start + ((pixel - from) / (to - from)) * width));
  return place;
}

const HTML = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => String(text).replace(/[&<>"']/g, (mark) => HTML[mark]);
