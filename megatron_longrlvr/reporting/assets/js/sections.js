// What each section of the page shows; built when it is first looked at.

const SECTIONS = {
  overview: { title: "Overview", build: overviewSection, hasCharts: true },
  learning: { title: "Learning", build: () => chartSection("learning"), hasCharts: true },
  grounding: { title: "Grounding", build: groundingSection, hasCharts: true },
  signal: { title: "Gradient signal", build: signalSection, hasCharts: true },
  rollouts: { title: "Rollouts", build: rolloutSection },
  speed: { title: "Speed", build: speedSection, hasCharts: true },
  health: { title: "Health", build: healthSection, hasCharts: true },
  data: { title: "Data", build: dataSection },
  metrics: { title: "All metrics", build: metricsSection, hasCharts: true },
  runs: { title: "Configuration", build: runsSection },
};

// Charts that hold something; the others are named in a line.
function chartsOf(section) {
  const own = store.data.charts.filter((chart) => chart.section === section);
  const isMeasured = (chart) => chart.metrics.some(([metric]) => store.data.runs.some((run) => metricOf(run, metric)));
  const empty = own.filter((chart) => !isMeasured(chart)).map((chart) => chart.title);
  return [
    h("div", { class: "charts" }, own.filter(isMeasured).map(chartFigure)),
    empty.length > 0 && h("p", { class: "missing" }, `${missingNote().replace(/\.$/, "")}: ${empty.join("; ")}.`),
  ];
}

function chartSection(section) {
  return [chartsOf(section)];
}

function overviewSection() {
  return [
    h(
      "ul",
      { class: "runs" },
      store.data.runs.map((run, index) => h("li", {}, swatch(index), h("strong", {}, untrusted(run.label)), " ", h("span", { class: "note" }, untrusted(run.description)))),
    ),
    alarmNotes(),
    chartsOf("overview"),
    h("h2", {}, store.data.runs.length > 1 ? "Comparison" : "Held-out scores"),
    comparisonTable(),
    h("h2", {}, "First, last and best"),
    scoreTable(),
    h("h2", {}, "Settings that differ"),
    settingsTable(),
  ];
}

// Alarms of the last step that was logged.
function alarmNotes() {
  return store.data.runs.map((run) => {
    const raised = metricOf(run, "alarm/raised");
    const last = raised && raised.value[raised.value.length - 1];
    if (!last) return null;
    return h(
      "p",
      { class: "alarm" },
      untrusted(run.label),
      `: ${last} alarm${last > 1 ? "s" : ""} at step ${raised.step[raised.step.length - 1]}; see `,
      h("a", { href: "#health" }, "Health"),
      " and, under ",
      h("a", { href: "#rollouts" }, "Rollouts"),
      ", the suspicious ones.",
    );
  });
}

function groundingSection() {
  const maps = h("div", { class: "charts" });
  const choice = { quantity: "recall", isHeldout: false };
  const fill = () => {
    const found = store.data.runs.map((run) => positionMap(run, choice.quantity, choice.isHeldout)).filter(Boolean);
    replaceChildren(maps, found.length ? found.map(heatmapFigure) : h("p", { class: "missing" }, missingNote()));
  };
  const set = (name, value) => {
    choice[name] = value;
    fill();
  };
  const quantities = { recall: "evidence there that is cited", precision: "citations there that are evidence", cited: "chunks there that are cited" };
  fill();
  return [
    h("h2", {}, "Where in the document"),
    h(
      "p",
      { class: "filters" },
      h("label", {}, "Share of ", h("select", { name: "quantity", onchange: (event) => set("quantity", event.target.value) }, Object.entries(quantities).map(([key, said]) => option(key, said)))),
      h("label", {}, " in ", h("select", { name: "set", onchange: (event) => set("isHeldout", event.target.value === "heldout") }, option("train", "training"), option("heldout", "held-out prompts"))),
    ),
    maps,
    h("h2", {}, "Chunk by chunk"),
    promptMapSection(),
    h("h2", {}, "What is found and what is answered"),
    chartsOf("grounding"),
  ];
}

const MAX_PROMPTS_OFFERED = 300;

// Prompts that were answered at several steps, held-out ones first.
function promptMapSection() {
  const steps = new Map();
  for (const rollout of store.rollouts) {
    if (rollout.kind === "alarm") continue;
    const key = rollout.prompt;
    if (!steps.has(key)) steps.set(key, new Set());
    steps.get(key).add(rollout.step);
  }
  const repeated = [...steps].filter(([, seen]) => seen.size > 1).sort((a, b) => b[1].size - a[1].size || a[0] - b[0]);
  if (repeated.length === 0) {
    return h("p", { class: "missing" }, "No prompt in the report was answered at two steps; trainer.eval_samples keeps held-out ones.");
  }
  const place = h("div", { class: "charts" });
  const fill = (prompt) => replaceChildren(place, store.data.runs.map((_, run) => chunkMap(prompt, run)).filter(Boolean).map(heatmapFigure));
  const select = h(
    "select",
    { name: "prompt", onchange: () => fill(Number(select.value)) },
    repeated.slice(0, MAX_PROMPTS_OFFERED).map(([prompt, seen]) => option(prompt, `${store.data.table.prompts[prompt].id} (${seen.size} steps)`)),
  );
  fill(repeated[0][0]);
  return [
    h("p", { class: "filters" }, h("label", {}, "How often the responses cite each chunk of prompt ", select)),
    place,
    h("p", { class: "note" }, "Evidence is marked in green at the left."),
  ];
}

function signalSection() {
  return [
    h(
      "p",
      { class: "note" },
      "The paper claims that a reward for the answer alone sends next to no gradient to the choice of " +
        "evidence: an update that favours one evidence chunk is multiplied by the probability that all " +
        "others are cited already. These charts show whether that holds for the policy of this run.",
    ),
    chartsOf("signal"),
  ];
}

function speedSection() {
  return [h("h2", {}, "Where the time of a step goes"), h("div", { class: "charts" }, store.data.runs.map(timingFigure)), chartsOf("speed")];
}

const TIMED = ["generate", "score", "logprobs", "update", "publish"];

// Share of the step's seconds in each part, over all steps shown.
function timingFigure(run) {
  const sum = (name) => {
    const found = metricOf(run, `timing/${name}_s`);
    return found ? found.value.reduce((total, value) => total + (value || 0), 0) : 0;
  };
  const whole = sum("step");
  if (!whole) return h("figure", { class: "chart" }, h("h3", {}, untrusted(run.label)), h("p", { class: "missing empty" }, "Not measured."));
  const parts = TIMED.map((name) => [name, sum(name)]);
  parts.push(["rest", Math.max(0, whole - parts.reduce((total, [, value]) => total + value, 0))]);
  const steps = metricOf(run, "timing/step_s").value.length;
  return h(
    "figure",
    { class: "chart" },
    h("h3", {}, untrusted(run.label)),
    h("p", { class: "note" }, `${formatNumber(whole / steps)} s a step, slowest rank, mean over ${steps} records`),
    parts.map(([name, value], index) =>
      h(
        "div",
        { class: "share" },
        h("span", {}, name),
        h("i", { vars: { "--width": `${(100 * value) / whole}%`, "--color": seriesColor(index) } }),
        h("span", { class: "num" }, `${((100 * value) / whole).toFixed(1)} %`),
      ),
    ),
  );
}

function healthSection() {
  const gaps = store.data.runs.map(mismatchMap).filter(Boolean);
  return [
    chartsOf("health"),
    gaps.length > 0 && [h("h2", {}, "Gap between engine and learner along the response"), h("div", { class: "charts" }, gaps.map(heatmapFigure))],
  ];
}

function mismatchMap(run) {
  const found = [...Array(10).keys()].map((tenth) => metricOf(run, `mismatch/decile_${tenth}_abs_mean`));
  const any = found.find(Boolean);
  if (!any) return null;
  const highest = Math.max(...found.filter(Boolean).flatMap((one) => one.value.map((value) => value || 0)), 1e-12);
  return {
    title: run.label,
    rows: found.map((_, tenth) => ({ label: `${tenth * 10}-${tenth * 10 + 10} %` })),
    columns: any.step.map(String),
    values: found.map((one) => any.step.map((_, place) => (one && one.value[place] !== null ? one.value[place] / highest : null))),
    rowName: "tokens at",
    columnName: "step",
    note: `Mean absolute gap as a share of the largest cell, ${formatNumber(highest)} nats.`,
  };
}

function dataSection() {
  const { audit } = store.data;
  if (audit) return auditTables(audit);
  return [
    h("p", { class: "missing" }, "No audit of the training data was given."),
    h("p", { class: "note" }, "longrlvr audit DATA ... --json audit.json makes one; longrlvr report ... --audit audit.json shows it here."),
  ];
}

const MAX_FREE_CHARTS = 120;

// Every metric that was logged, by part of its name.
function metricsSection() {
  const names = allMetrics();
  const place = h("div", { class: "charts" });
  const count = h("p", { class: "note", role: "status" });
  const fill = (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = names.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
    const shown = fitting.slice(0, MAX_FREE_CHARTS);
    count.textContent = `${shown.length} of ${fitting.length} metrics`;
    const free = (name) => ({ title: name, metrics: [[name, ""]], is_share: /_frac$/.test(name), note: "", caution: "" });
    replaceChildren(place, shown.map((name) => chartFigure(free(name))));
  };
  const search = h("input", {
    type: "search",
    placeholder: "Part of a name, e.g. grounding recall",
    "aria-label": "Search metrics",
    oninput: debounced(200, (event) => fill(event.target.value)),
  });
  fill("");
  return [h("p", { class: "filters" }, search), count, place];
}

function runsSection() {
  const { runs, provenance } = store.data;
  return [
    h("h2", {}, "Where the runs come from"),
    perRunTable(provenance, ""),
    runs.filter((run) => !run.has_provenance).map((run) => h("p", { class: "missing" }, untrusted(run.label), " wrote no provenance.json.")),
    h("h2", {}, "Configuration"),
    runs.map((run, index) =>
      h(
        "details",
        { open: runs.length === 1 },
        h("summary", {}, runHead(run, index), ", complete"),
        h("pre", { tabindex: "0" }, untrusted(JSON.stringify(run.config, null, 2))),
      ),
    ),
  ];
}
