// One metric: the paths of its curves, axes, marks of values that are not finite, and alerts.
const EDGE = { left: 58, right: 14, top: 14, bottom: 34 };
const POINTS = 40000; // of all paths of a panel

const shownRun = (run) => !state.hidden.has(run) && table.matches[run] !== false;

class Panel {
  constructor(area) {
    const source = panels[area.dataset.panel];
    Object.assign(this, { area, source, name: source.name, banded: source.banded, figure: area.closest("figure"), yZoom: null, cursor: null });
    area.innerHTML = '<svg class="chart" aria-hidden="true"></svg><svg class="over" aria-hidden="true"></svg><div class="tip" hidden></div>';
    [this.chart, this.over, this.tip] = area.children;
    area.tabIndex = 0;
    area.setAttribute("role", "application");
    area.setAttribute("aria-roledescription", "chart");
    listen(this);
  }

  get curves() {
    return this.source.curves;
  }

  draw() {
    this.width = this.area.clientWidth || 480;
    this.height = this.area.clientHeight || 240;
    const axis = this.axis = this.banded ? "step" : state.x;
    this.visible = this.curves.filter((each) => shownRun(each.run) && each.x[axis]?.length);
    const [left, right] = state.zoom && !this.banded ? state.zoom : this.across();
    const [low, high] = this.yZoom ?? this.between(left, right);
    const least = low > 0 ? low : this.lowestPositive(left, right);
    this.log = state.log && least <= high && !(this.banded && low < 0);
    const bottom = this.log ? least : low;
    const pad = this.yZoom || this.log || !Number.isFinite(high - bottom) ? 0 : (high - bottom) * 0.04 || Math.abs(high) * 0.05 || 0.5;
    this.x = scale(left, right, EDGE.left, this.width - EDGE.right);
    const ends = this.log && bottom === high ? [Math.max(bottom / 2, Number.MIN_VALUE), Math.min(high * 2, Number.MAX_VALUE)] : [bottom - pad, high + pad];
    this.y = scale(...ends, this.height - EDGE.bottom, EDGE.top, this.log);
    this.limits = { left, right, low: ends[0], high: ends[1] };
    const many = this.visible.length > 40 ? " many" : "";
    const inside = `${this.axes()}<g clip-path="url(#clip-${this.area.dataset.panel})" class="lines${many}">${this.lines()}</g>${this.visible.map((each) => this.broken(each)).join("")}`;
    const clip = `<clipPath id="clip-${this.area.dataset.panel}"><rect x="${EDGE.left}" y="0" width="${Math.max(0, this.width - EDGE.left - EDGE.right)}" height="${this.height - EDGE.bottom + 1}"></rect></clipPath>`;
    this.chart.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.over.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.chart.innerHTML = this.visible.length ? clip + inside : this.nothing();
    this.area.setAttribute("aria-label", this.said());
    mark(this);
  }

  across() {
    let left = Infinity, right = -Infinity;
    for (const { x, steps } of this.visible) {
      const [first, last] = this.axis === "step" ? steps : [x[this.axis], x[this.axis]];
      left = Math.min(left, first[0]);
      right = Math.max(right, last[last.length - 1]);
    }
    return left < right ? [left, right] : left === right ? [left - 0.5, right + 0.5] : [0, 1];
  }

  between(left, right) {
    let low = Infinity, high = -Infinity;
    for (const each of this.visible) {
      const places = each.x[this.axis];
      for (let i = 0; i < places.length; i++) {
        if (places[i] < left || places[i] > right) continue;
        if (each.low[i] < low) low = each.low[i];
        if (each.high[i] > high) high = each.high[i];
      }
    }
    return low <= high ? [low, high] : [0, 1];
  }

  lowestPositive(left, right) {
    let low = Infinity;
    for (const each of this.visible) {
      const places = each.x[this.axis];
      for (let i = 0; i < places.length; i++) {
        if (places[i] < left || places[i] > right) continue;
        for (const value of [each.low[i], each.mean[i], each.high[i]]) if (value > 0 && value < low) low = value;
      }
    }
    return low;
  }

  axes() {
    const { left, right, low, high } = this.limits, { width, height } = this, foot = height - EDGE.bottom;
    const unit = this.axis === "time" ? unitOf(right)[0] : 1;
    const across = ticks(left, right, Math.max(2, width / 110), unit, this.axis === "step" ? 1 : 0).filter((each) => !unit || each <= right);
    const upward = this.log ? logTicks(low, high, height / 45) : ticks(low, high, height / 45);
    const grid = upward.map((each) => {
      const y = this.y(each).toFixed(1);
      return `<path class="grid" d="M${EDGE.left} ${y}H${width - EDGE.right}"></path><text class="tick" x="${EDGE.left - 8}" y="${y}" dy=".32em" text-anchor="end">${format(each)}</text>`;
    });
    const marks = across.map((each) => {
      const x = this.x(each), end = x > width - 40 ? "end" : x < EDGE.left + 20 ? "start" : "middle";
      return `<path class="mark" d="M${x.toFixed(1)} ${foot}v4"></path><text class="tick" x="${x.toFixed(1)}" y="${foot + 16}" text-anchor="${end}">${AXES[this.axis].text(each)}</text>`;
    });
    const label = `<text class="axis" x="${width - EDGE.right}" y="${height - 4}" text-anchor="end">${AXES[this.axis].label}${this.log ? "" : state.log ? " · nothing above 0 for a log scale" : ""}</text>`;
    return `${grid.join("")}<path class="frame" d="M${EDGE.left} ${foot}H${width - EDGE.right}"></path>${marks.join("")}${label}`;
  }

  lines() {
    if (this.banded) return this.visible.map((each) => this.band(each)).join("");
    const most = Math.max(24, Math.min(this.width / 2, POINTS / this.visible.length)), few = this.visible.length <= 40;
    const parts = this.visible.map((each) => {
      const points = this.points(each, most), data = `data-run="${each.run}"`;
      const under = each.low !== each.high && (few || !state.smooth) ? `<path${ink(each.run, "spread")} d="${this.spread(points)}"></path>` : "";
      const raw = few || !state.smooth ? `<path${ink(each.run, state.smooth ? "line raw" : "line")} ${data} d="${this.means(points)}"></path>` : "";
      const soft = state.smooth ? `<path${ink(each.run, "line")} ${data} d="${this.smooth(each, most)}"></path>` : "";
      return under + raw + soft;
    });
    return parts.join("") + this.alerts();
  }

  // At most so many points in the limits: the place, and the pixels of the lowest, the highest and the mean value; null is a gap.
  points(each, most) {
    const places = each.x[this.axis], { left, right } = this.limits, { low, high, mean } = each, at = [], found = [];
    for (let i = 0; i < places.length; i++) {
      if ((places[i + 1] ?? left) >= left && (places[i - 1] ?? right) <= right) at.push(i);
    }
    const every = Math.max(1, Math.ceil(at.length / most));
    for (let start = 0; start < at.length; start += every) {
      const end = Math.min(start + every, at.length);
      let least = Infinity, top = -Infinity, sum = 0, count = 0;
      for (let k = start; k < end; k++) {
        const i = at[k];
        if (low[i] < least) least = low[i];
        if (high[i] > top) top = high[i];
        if (Number.isFinite(mean[i])) { sum += mean[i]; count += 1; }
      }
      if (!count || (this.log && !(top > 0))) { found.push(null); continue; }
      const floor = (value) => Math.round(10 * this.y(this.log && !(value > 0) ? this.limits.low : value)) / 10;
      const middle = count === 1 ? sum : Math.min(top, Math.max(least, sum / count));
      found.push([Math.round(5 * this.x(places[at[start]]) + 5 * this.x(places[at[end - 1]])) / 10, floor(least), floor(top), floor(middle)]);
    }
    return found;
  }

  // A path through the means; a gap begins a new one, and a point between gaps is a short line.
  means(points) {
    let pen = "M";
    return points.map((each, i) => {
      if (each && !points[i - 1] && !points[i + 1]) return `M${each[0] - 2} ${each[3]}h4`;
      const text = each ? `${pen}${each[0]} ${each[3]}` : "";
      pen = each ? "L" : "M";
      return text;
    }).join("");
  }

  // The area between the lowest and the highest values; a piece for each stretch without a gap.
  spread(points) {
    const pieces = [[]];
    for (const each of points) {
      if (each) pieces.at(-1).push(each);
      else if (pieces.at(-1).length) pieces.push([]);
    }
    return pieces.filter((piece) => piece.length).map((piece) => {
      const top = piece.map(([x, , high]) => `${x} ${high}`), bottom = piece.map(([x, low]) => `${x} ${low}`).reverse();
      return `M${top.join("L")}L${bottom.join("L")}Z`;
    }).join("");
  }

  // The exponential mean of the buckets' means, with the correction of its start.
  smooth(each, most) {
    const places = each.x[this.axis], weight = state.smooth, { left, right } = this.limits;
    const every = Math.max(1, Math.floor(places.length / most)), points = [];
    let sum = 0, total = 0;
    for (let i = 0; i < places.length; i++) {
      if (!Number.isFinite(each.mean[i])) { points.push(null); continue; }
      sum = weight * sum + (1 - weight) * each.mean[i];
      total = weight * total + 1 - weight;
      const value = sum / total;
      if (places[i] < left || places[i] > right || (i % every && i < places.length - 1)) continue;
      points.push(this.log && !(value > 0) ? null : [Math.round(10 * this.x(places[i])) / 10, 0, 0, Math.round(10 * this.y(value)) / 10]);
    }
    return this.means(points);
  }

  band({ run, x, lines }) {
    const places = x.step, pairs = [[0, 8], [1, 7], [2, 6], [3, 5]];
    const floor = (value) => this.y(this.log ? Math.max(value, this.limits.low) : value).toFixed(1);
    const known = Array.from(places.keys()).filter((i) => !Number.isNaN(lines[4][i]));
    const to = (row, order) => order.map((i) => `${this.x(places[i]).toFixed(1)} ${floor(lines[row][i])}`).join("L");
    const areas = pairs.map(([low, high]) => `<path${ink(run, "area")} d="M${to(low, known)}L${to(high, known.slice().reverse())}Z"></path>`);
    return `${areas.join("")}<path${ink(run, "line")} data-run="${run}" d="M${to(4, known)}"></path>`;
  }

  broken(each) {
    if (!each.broken.length) return "";
    const places = each.x[this.axis], y = EDGE.top - 5, { left, right } = this.limits;
    const crosses = each.broken.filter(([first, last]) => places[last] >= left && places[first] <= right).map(([first, last]) => {
      const [x, end] = [Math.max(places[first], left), Math.min(places[last], right)].map(this.x);
      return `M${(x - 3.5).toFixed(1)} ${y - 3.5}l7 7m0-7l-7 7` + (end > x ? `M${x.toFixed(1)} ${y}H${end.toFixed(1)}` : "");
    });
    return `<path${ink(each.run, "bad")} data-bad="${each.run}" d="${crosses.join("")}"></path>`;
  }

  alerts() {
    if (this.axis !== "step") return "";
    return [...new Set(this.visible.map((each) => each.run))].slice(0, 12).flatMap((run) =>
      index.runs[run][2].map(([step, name, level, text]) => {
        const x = this.x(step).toFixed(1), foot = this.height - EDGE.bottom;
        return `<g class="alert ${level === "error" ? "wrong" : "warn"}"><path d="M${x} ${EDGE.top}V${foot}"></path><path class="flag" d="M${x} ${foot}l-5 -9h10z"></path><title>${escape(`${name}, step ${whole(step)}, ${title(run)}: ${text}`)}</title></g>`;
      }),
    ).join("");
  }

  nothing() {
    const why = this.curves.some((each) => shownRun(each.run)) ? `No ${AXES[this.axis].label} is known for these curves.` : "No run is shown.";
    return `<text class="axis" x="${this.width / 2}" y="${this.height / 2}" text-anchor="middle">${why}</text>`;
  }

  said() {
    if (!this.visible.length) return `${this.name}: nothing is drawn`;
    const { left, right } = this.limits, [low, high] = this.between(left, right), text = AXES[this.axis].text;
    const what = this.banded ? "distribution" : this.visible.length === 1 ? "1 curve" : `${this.visible.length} curves`;
    const broken = this.visible.filter((each) => each.broken.length).length;
    const gaps = broken ? `; ${broken} with values that are not finite` : "";
    return `${this.name}, ${what} over ${AXES[this.axis].label}, from ${text(left)} to ${text(right)}, values between ${format(low)} and ${format(high)}${gaps}`;
  }
}
