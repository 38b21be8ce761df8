// Elements are made from text, by h() alone. Nothing in this page parses a string as HTML, so
// whatever a document or a policy holds stays text.

// h("p", {class: "note", onclick: f}, "text", child): an element. Texts are shown as they are.
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") Object.entries(value).forEach(([k, v]) => element.style.setProperty(k, v));
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function replaceChildren(element, ...children) {
  element.textContent = "";
  return append(element, children);
}

// Characters that are invisible or reorder what stands around them: shown by number instead.
const CONTROLS = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b-\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
  "g",
);

// Text that nobody vouches for: isolated, so that its direction ends where it ends.
function untrusted(text, attributes) {
  const element = h("bdi", { ...attributes, class: `untrusted ${(attributes || {}).class || ""}` });
  let end = 0;
  for (const match of text.matchAll(CONTROLS)) {
    if (match[0] === "\r") continue;
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    element.append(text.slice(end, match.index), h("span", { class: "control" }, `U+${code}`));
    end = match.index + match[0].length;
  }
  element.append(text.slice(end));
  return element;
}

function swatch(index) {
  return h("i", { class: "swatch", vars: { "--color": seriesColor(index) }, "aria-hidden": "true" });
}

const NUM_COLORS = 6;

function seriesColor(index) {
  return `var(--series-${index % NUM_COLORS})`;
}

// The colour that a CSS variable has now, for canvases.
function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function formatNumber(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toFixed(size >= 100 ? 1 : 3);
}

function option(value, label, isSelected) {
  return h("option", { value, selected: isSelected }, label);
}

function debounced(wait_ms, action) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait_ms);
  };
}
