// The frame: navigation, what holds for all charts, keys, light and dark.

const KEYS = [
  ["1 to 9, 0", "go to a section"],
  ["/", "search the rollouts"],
  ["j, k", "next, previous rollout"],
  ["x", "change the axis: steps, tokens, hours"],
  ["s, S", "smooth more, less"],
  ["t", "light or dark"],
  ["?", "show or hide these keys"],
];

const AXES = ["step", "tokens", "hours"];
const SMOOTHINGS = [0, 0.5, 0.8, 0.9, 0.97];

function frame() {
  const page = document.getElementById("page");
  const names = Object.keys(SECTIONS);
  const nav = h(
    "nav",
    { "aria-label": "Sections" },
    names.map((name, index) => h("a", { href: `#${name}`, "data-section": name }, h("kbd", {}, String((index + 1) % 10)), SECTIONS[name].title)),
  );
  replaceChildren(
    page,
    h("a", { class: "skip", href: "#main" }, "Skip to the content"),
    h(
      "header",
      { class: "top" },
      h("h1", {}, untrusted(store.data.title)),
      h("span", { id: "live", class: "live" }),
      chartControls(),
      h("button", { type: "button", class: "quiet", onclick: toggleTheme, title: "light or dark (t)" }, "\u25d0"),
      h("button", { type: "button", class: "quiet", onclick: toggleHelp, title: "keys (?)" }, "?"),
    ),
    h("div", { class: "columns" }, nav, h("main", { id: "main", tabindex: "-1" })),
    h(
      "dialog",
      { id: "help", "aria-label": "Keys" },
      h("h2", {}, "Keys"),
      h("dl", {}, KEYS.map(([key, said]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, said)])),
      h("button", { type: "button", onclick: toggleHelp }, "Close"),
    ),
  );
}

function chartControls() {
  const { view } = store;
  return h(
    "span",
    { class: "chart-controls" },
    h("label", {}, "Axis ", h("select", { id: "axis", onchange: (event) => setView("axis", event.target.value) }, AXES.map((axis) => option(axis, AXIS_NAMES[axis], axis === view.axis)))),
    h("label", {}, "Smoothing ", h("select", { id: "smoothing", onchange: (event) => setView("smoothing", Number(event.target.value)) }, SMOOTHINGS.map((weight) => option(weight, weight ? String(weight) : "none", weight === view.smoothing)))),
  );
}

function setView(name, value) {
  store.view[name] = value;
  document.getElementById(name).value = String(value);
  redrawCharts();
}

function cycle(name, values, by) {
  const place = values.indexOf(store.view[name]) + by;
  setView(name, values[name === "axis" ? (place + values.length) % values.length : Math.min(Math.max(place, 0), values.length - 1)]);
}

const built = new Map();

function showSection(name) {
  store.view.section = name;
  const main = document.getElementById("main");
  if (!built.has(name)) {
    const { title, build } = SECTIONS[name];
    const section = h("section", { id: `section-${name}`, "aria-label": title });
    main.append(section);
    built.set(name, section);
    append(section, [h("h2", { class: "section-title" }, title), build()]);
  }
  for (const [other, section] of built) section.hidden = other !== name;
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.dataset.section === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.querySelector(".chart-controls").hidden = !SECTIONS[name].hasCharts;
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  redrawCharts();
  redrawHeatmaps();
}

function rebuildSections() {
  const current = store.view.section;
  built.forEach((section) => section.remove());
  built.clear();
  browser.chosen = null;
  showSection(current);
}

function sectionFromAddress() {
  const name = location.hash.slice(1);
  showSection(name in SECTIONS ? name : store.view.section);
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
  redrawCharts();
  redrawHeatmaps();
}

function toggleHelp() {
  const help = document.getElementById("help");
  if (help.open) help.close();
  else help.showModal();
}

function onKey(event) {
  const isTyping = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "/": focusSearch,
    j: () => stepRollout(1),
    k: () => stepRollout(-1),
    x: () => cycle("axis", AXES, 1),
    s: () => cycle("smoothing", SMOOTHINGS, 1),
    S: () => cycle("smoothing", SMOOTHINGS, -1),
    t: toggleTheme,
    "?": toggleHelp,
  };
  const section = /^\d$/.test(event.key) && Object.keys(SECTIONS)[(Number(event.key) + 9) % 10];
  const action = section ? () => showSection(section) : actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function start() {
  load(readEmbedded());
  const theme = recall("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  frame();
  sectionFromAddress();
  addEventListener("hashchange", sectionFromAddress);
  addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    redrawCharts();
    redrawHeatmaps();
  });
  startLive(Number(document.body.dataset.refresh));
  document.body.dataset.ready = "yes";
}

start();
