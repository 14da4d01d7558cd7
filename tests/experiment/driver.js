// What tests of reports use in the page, after the page's own script.
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const plot = $(".plot");
const said = () => plot.getAttribute("aria-label");
const names = () => $$("#table tbody tr").filter((row) => !row.hidden).map((row) => row.cells[1].textContent);
const head = (name) => $$("#table thead th").find((each) => each.textContent.startsWith(name));
const stroke = () => plot.querySelector(".line:not(.raw)").getAttribute("d");

function fire(kind, init) {
  const box = plot.getBoundingClientRect();
  if (init.key) plot.dispatchEvent(new KeyboardEvent(kind, { bubbles: true, ...init }));
  else plot.dispatchEvent(new PointerEvent(kind, { bubbles: true, button: 0, clientX: box.left + init.x, clientY: box.top + 90 }));
}

function type(at, value, kind = "input") {
  at.value = value;
  at.dispatchEvent(new Event(kind, { bubbles: true }));
}

// Take the steps one after the other, each after the page has drawn, and leave what they put into the result.
function steps(...each) {
  const result = {};
  const next = () => {
    each.shift()(result);
    if (each.length) setTimeout(next, 100);
    else document.body.dataset.result = JSON.stringify(result);
  };
  setTimeout(next, 100);
}
