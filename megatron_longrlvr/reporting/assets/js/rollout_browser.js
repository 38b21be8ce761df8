// The rollouts: filters, a list of any length, and the chosen one beside it.

const OUTCOMES = {
  all: ["any outcome", () => true],
  right_grounded: ["right, grounded", (one) => one.valid && isRight(one) && isGrounded(one)],
  right_ungrounded: ["right, ungrounded", (one) => one.valid && isRight(one) && !isGrounded(one)],
  wrong_grounded: ["wrong, grounded", (one) => one.valid && !isRight(one) && isGrounded(one)],
  wrong_ungrounded: ["wrong, ungrounded", (one) => one.valid && !isRight(one) && !isGrounded(one)],
  unparsed: ["not well-formed", (one) => one.parse !== "ok"],
  truncated: ["cut off", (one) => one.finish === "length"],
  invalid: ["no reward known", (one) => !one.valid],
  suspicious: ["suspicious", (one) => one.suspicions.length + one.alarms.length > 0],
};

const SORTS = {
  step: ["by step", (a, b) => a.step - b.step || a.index - b.index],
  best: ["best first", (a, b) => b.reward - a.reward || a.index - b.index],
  worst: ["worst first", (a, b) => a.reward - b.reward || a.index - b.index],
  longest: ["longest first", (a, b) => b.tokens - a.tokens || a.index - b.index],
};

const browser = { filter: { run: "all", kind: "all", outcome: "all", step: "all", text: "", sort: "step" }, chosen: null };

function rolloutSection() {
  if (store.rollouts.length === 0) return [h("p", { class: "missing" }, "No run wrote samples."), missingSamples()];
  browser.detail = h("div", { class: "detail", tabindex: "-1" });
  browser.count = h("p", { class: "note", role: "status" });
  browser.list = new VirtualList({
    label: "Rollouts",
    rowHeight: 46,
    renderRow: rolloutRow,
    onChoose: (rollout) => chooseRollout(rollout),
  });
  const section = [
    h("p", { class: "note" }, tableNote()),
    missingSamples(),
    filterBar(),
    browser.count,
    h("div", { class: "browser" }, browser.list.element, browser.detail),
  ];
  applyFilter();
  return section;
}

function tableNote() {
  const { num_found, files_read, files_found } = store.data.table;
  const left = num_found - store.rollouts.length;
  return [
    `${store.rollouts.length.toLocaleString("en")} rollouts from ${files_read} of ${files_found} sample files`,
    left > 0 ? `; ${left.toLocaleString("en")} more of these files did not fit. ` : ". ",
    "Chunks are marked ",
    Object.entries(MARKS).map(([kind, { sign, words }]) => [badge(kind, `${sign} ${words}`), " "]),
  ];
}

function missingSamples() {
  const without = store.data.runs.filter((run) => run.num_sample_files === 0);
  return without.map((run) => h("p", { class: "missing" }, untrusted(run.label), " wrote no samples."));
}

function filterBar() {
  const { filter } = browser;
  const select = (name, label, options) =>
    h(
      "label",
      {},
      h("span", { class: "hidden" }, label),
      h("select", { name, onchange: (event) => setFilter(name, event.target.value) }, options.map(([value, said]) => option(value, said, String(value) === filter[name]))),
    );
  const steps = [...new Set(store.rollouts.map((one) => one.step))].sort((a, b) => a - b);
  const kinds = [...new Set(store.rollouts.map((one) => one.kind))];
  browser.search = h("input", {
    type: "search",
    name: "text",
    placeholder: "Search text, answers, questions, prompt ids  ( / )",
    value: filter.text,
    "aria-label": "Search rollouts",
    oninput: debounced(150, (event) => setFilter("text", event.target.value)),
  });
  return h(
    "form",
    { class: "filters", onsubmit: (event) => event.preventDefault() },
    browser.search,
    store.data.runs.length > 1 && select("run", "Run", [["all", "all runs"], ...store.data.runs.map((run, index) => [index, run.label])]),
    select("kind", "Kind", [["all", "all kinds"], ...kinds.map((kind) => [kind, KIND_NAMES[kind]])]),
    select("step", "Step", [["all", "all steps"], ...steps.map((step) => [step, `step ${step}`])]),
    select("outcome", "Outcome", Object.entries(OUTCOMES).map(([key, [said]]) => [key, said])),
    select("sort", "Order", Object.entries(SORTS).map(([key, [said]]) => [key, said])),
  );
}

function setFilter(name, value) {
  browser.filter[name] = value;
  applyFilter();
}

function haystack(rollout) {
  if (rollout.haystack === undefined) {
    const prompt = promptOf(rollout);
    rollout.haystack = [rollout.text, rollout.answer || "", prompt.question, prompt.id, prompt.reference.join(" ")].join("\n").toLowerCase();
  }
  return rollout.haystack;
}

function applyFilter() {
  const { run, kind, step, outcome, text, sort } = browser.filter;
  const wanted = text.trim().toLowerCase();
  const [, fits] = OUTCOMES[outcome];
  const shown = store.rollouts
    .filter(
      (one) =>
        (run === "all" || one.run === Number(run)) &&
        (kind === "all" || one.kind === kind) &&
        (step === "all" || one.step === Number(step)) &&
        fits(one) &&
        (!wanted || haystack(one).includes(wanted)),
    )
    .sort(SORTS[sort][1]);
  browser.count.textContent = `${shown.length.toLocaleString("en")} of ${store.rollouts.length.toLocaleString("en")} rollouts`;
  browser.list.show(shown, shown.indexOf(browser.chosen));
  if (!shown.includes(browser.chosen)) {
    if (shown.length) browser.list.choose(0);
    else replaceChildren(browser.detail, h("p", { class: "missing empty" }, "No rollout fits."));
  }
}

function rolloutRow(rollout) {
  const f = rollout.parts.context_f_beta;
  const verdict = !rollout.valid ? "missed" : isRight(rollout) ? "found" : "wrong";
  const sign = !rollout.valid ? "?" : isRight(rollout) ? "\u2713" : "\u2717";
  return [
    h(
      "span",
      { class: "row-head" },
      swatch(rollout.run),
      `step ${rollout.step}`,
      badge(verdict, sign),
      badge("", rollout.reward.toFixed(2)),
      f !== undefined && badge(f >= store.data.grounded_f_beta ? "found" : "", `${store.data.f_beta} ${f.toFixed(2)}`),
      rollout.kind !== "train" && badge("", KIND_NAMES[rollout.kind]),
      (rollout.suspicions.length > 0 || rollout.alarms.length > 0) && badge("wrong", "!"),
    ),
    untrusted(promptOf(rollout).question.slice(0, 160), { class: "row-text" }),
  ];
}

function chooseRollout(rollout) {
  browser.chosen = rollout;
  replaceChildren(browser.detail, rolloutView(rollout, compareRollouts), promptMaps(rollout));
  browser.detail.scrollTop = 0;
}

function compareRollouts(rollout, other) {
  const view = comparisonView(rollout, other, () => view.remove());
  const earlier = browser.detail.querySelector(".comparison-view");
  if (earlier) earlier.remove();
  browser.detail.querySelector(".compare-bar").after(view);
}

function promptMaps(rollout) {
  const maps = store.data.runs.map((_, index) => chunkMap(rollout.prompt, index)).filter((map) => map && map.columns.length > 1);
  if (maps.length === 0) return null;
  return [h("h4", {}, "How often each chunk of this prompt is cited, by step"), maps.map(heatmapFigure)];
}

function focusSearch() {
  showSection("rollouts");
  if (browser.search) browser.search.focus();
}

function stepRollout(by) {
  if (browser.list) browser.list.choose(browser.list.chosen + by);
}
