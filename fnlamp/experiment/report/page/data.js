// The page's data: an index in JSON, and numbers in base64 that typed arrays look at without a copy.
const index = JSON.parse(document.getElementById("index").textContent);

const content = (() => {
  const text = atob(document.getElementById("numbers").textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
})();

const KINDS = { f: Float32Array, d: Float64Array, i: Int32Array };
const opened = new Map();

function array(number) {
  if (number < 0) return null;
  if (!opened.has(number)) {
    const [kind, offset, length] = index.arrays[number];
    opened.set(number, new KINDS[kind](content, offset, length));
  }
  return opened.get(number);
}

function middle(first, last) {
  return first === last ? first : Float64Array.from(first, (step, i) => (step + last[i]) / 2);
}

// A curve of a run, or the bands of a histogram, with its places on each axis; null where an axis does not have it.
function curve([run, first, last, low, high, mean, epochs, times, broken, numbers]) {
  const steps = [array(first), array(last)];
  const x = { step: middle(...steps), epoch: array(epochs), time: array(times) };
  return { run, steps, x, low: array(low), high: array(high), mean: array(mean), broken, numbers };
}

function bands({ run, bands: [first, rows, broken] }) {
  const steps = array(first), lines = rows.map(array);
  const stretches = broken.flatMap((count, i) => (count ? [[i, i, count, 0]] : []));
  const x = { step: steps, epoch: null, time: null };
  return { run, steps: [steps, steps], x, low: lines[0], high: lines.at(-1), mean: lines[4], lines, broken: stretches };
}

const panels = index.panels.map((each) => ({
  name: each.name,
  banded: "bands" in each,
  data: null,
  get curves() {
    this.data ??= this.banded ? [bands(each)] : each.curves.map(curve);
    return this.data;
  },
}));

const title = (run) => index.runs[run][0];
const columns = [{ label: "run", kind: "run", last: index.runs.map((run) => run[0]) }].concat(
  index.columns.map(([label, kind, last, low, high]) => ({ label, kind, last, low, high })),
);
