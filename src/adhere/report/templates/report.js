"use strict";

// Figures: drawn from the specifications in the page, in the colours of the page, whichever those are.
const figures = [...document.querySelectorAll("script[data-plot]")].map((holder) => ({
  place: document.getElementById(holder.dataset.plot),
  spec: JSON.parse(holder.textContent),
}));

function pageColours() {
  const style = getComputedStyle(document.documentElement);
  const body = getComputedStyle(document.body);
  const line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, linecolor: line, tickcolor: line };
  return { font: { color: style.getPropertyValue("--muted").trim(), family: body.fontFamily, size: 12 }, axis };
}

const print = matchMedia("print");
const printWidth = 640; // fits A4 and Letter; a figure does not follow the width of paper by itself

function layoutForPage(layout) {
  const { font, axis } = pageColours();
  const size = print.matches ? { width: printWidth } : { autosize: true };
  return { ...layout, ...size, font, xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis } };
}

function drawFigures() {
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  for (const { place, spec } of figures) {
    Plotly.react(place, spec.data, layoutForPage(spec.layout), settings);
  }
}

if (figures.length > 0) {
  drawFigures();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawFigures);
  print.addEventListener("change", drawFigures);
}

// Masked words: hidden until asked for, and hidden in a print made before that.
const buttons = [...document.querySelectorAll("button.unmask")];
const masked = [...document.querySelectorAll(".masked")];
let shown = false;

function toggleMasks() {
  shown = !shown;
  for (const word of masked) {
    const other = word.dataset.word;
    word.dataset.word = word.textContent;
    word.textContent = other;
  }
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(shown));
  }
}

for (const button of buttons) {
  button.hidden = masked.length === 0;
  button.addEventListener("click", toggleMasks);
}

// A print shows what a reader could open.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
