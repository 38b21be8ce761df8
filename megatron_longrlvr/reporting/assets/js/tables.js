// Tables: held-out scores, comparison of runs, settings, provenance, data audit.

function scrolling(...children) {
  return h("div", { class: "scroll", tabindex: "0" }, children);
}

function table(head, rows, attributes) {
  return scrolling(
    h(
      "table",
      attributes,
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, rows),
    ),
  );
}

function runHead(run, index) {
  return [swatch(index), untrusted(run.label)];
}

// One row a fact, one column a run.
function perRunTable(rows, corner) {
  return table(
    [corner, ...store.data.runs.map(runHead)],
    rows.map((row) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, h("code", {}, row.key)),
        row.values.map((value) => h("td", {}, untrusted(value))),
      ),
    ),
    { class: "facts" },
  );
}

function interval(found, isSigned) {
  if (!found) return h("td", { class: "missing" }, "not measured");
  const sign = isSigned && found.value > 0 ? "+" : "";
  const spread = found.half_width === null ? "" : ` \u00b1 ${found.half_width.toFixed(3)}`;
  // A difference whose interval leaves out 0.
  const isClear = isSigned && found.half_width !== null && Math.abs(found.value) > found.half_width;
  return h(
    "td",
    { class: `num ${isClear ? "clear" : ""}` },
    `${sign}${found.value.toFixed(3)}${spread}`,
    isSigned ? "" : h("small", {}, ` step ${found.step}`),
  );
}

function comparisonTable() {
  const { runs, comparison } = store.data;
  const rows = comparison.map((row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, row.title, h("br"), h("code", {}, row.metric)),
      row.values.map((value) => interval(value, false)),
      row.differences.slice(1).map((value) => interval(value, true)),
    ),
  );
  const head = [
    "Held-out score, last",
    ...runs.map(runHead),
    ...runs.slice(1).map((run, index) => [swatch(index + 1), untrusted(run.label), " minus first"]),
  ];
  return [
    table(head, rows, { class: "comparison" }),
    h(
      "p",
      { class: "note" },
      "\u00b1 is the half-width of a 95 % interval (1.96 standard errors over held-out prompts), " +
        "where the run logged one. Differences add the variances of both runs as if their prompts " +
        "were not the same, so their intervals are rather too wide; bold ones leave out 0. " +
        "An interval of 0 says that all prompts scored alike, not that the score is known exactly.",
    ),
  ];
}

function scoreTable() {
  const { runs, scores } = store.data;
  const cell = (found) =>
    found.step === null
      ? h("td", { class: "missing" }, found.text)
      : h("td", { class: "num" }, found.text, h("small", {}, ` step ${found.step}`));
  const rows = scores.flatMap((block) =>
    block.rows.map((row, place) =>
      h(
        "tr",
        {},
        place === 0 &&
          h("th", { scope: "rowgroup", rowspan: block.rows.length }, block.title, h("br"), h("code", {}, block.metric)),
        h("td", { class: "run" }, runHead(runs[row.run_index], row.run_index)),
        cell(row.first),
        cell(row.last),
        cell(row.best),
      ),
    ),
  );
  return [
    table(["Score", "Run", "First", "Last", "Best"], rows, { class: "scores" }),
    h(
      "p",
      { class: "note" },
      "As logged. The best is the highest, picked after the fact on the same prompts, so it flatters; " +
        "the last is what the run ended with. \u00b1 is one standard error over held-out prompts.",
    ),
  ];
}

function settingsTable() {
  const { runs, settings } = store.data;
  if (runs.length === 1) return h("p", { class: "missing" }, "One run only, nothing to compare with.");
  if (settings.length === 0) return h("p", {}, "None but run.name and run.dir.");
  return [
    perRunTable(settings, "Setting"),
    h("p", { class: "note" }, "Every other setting is the same in all runs; run.name and run.dir are left out."),
  ];
}

// What was found in the training data, as `longrlvr audit --json` wrote it.
function auditTables(audit) {
  const counts = Object.entries(audit.counts).filter(([, count]) => count > 0);
  const shown = audit.findings.slice(0, 200);
  return [
    h(
      "p",
      {},
      `${audit.num_rows} records, ${audit.num_errors} errors, ${audit.num_warnings} warnings; ` +
        `prompts up to ${audit.max_prompt_tokens} tokens.`,
    ),
    h("h3", {}, "Findings by check"),
    counts.length
      ? table(["Check", "Count"], counts.map(([name, count]) => h("tr", {}, h("td", {}, h("code", {}, name)), h("td", { class: "num" }, String(count)))))
      : h("p", { class: "missing" }, "Nothing was found."),
    h("h3", {}, "Distributions"),
    distributionTable(audit.distributions || {}),
    h("h3", {}, "Evidence by tenth of its document"),
    bars((audit.evidence_by_decile || []).map((count, tenth) => [`${tenth * 10} %`, count])),
    shown.length > 0 && h("h3", {}, shown.length < audit.findings.length ? `The first ${shown.length} of ${audit.findings.length} findings` : "Findings"),
    shown.length > 0 &&
      table(
        ["Severity", "Check", "Place", "What"],
        shown.map((finding) =>
          h(
            "tr",
            {},
            h("td", {}, finding.severity),
            h("td", {}, h("code", {}, finding.check)),
            h("td", {}, untrusted(finding.place)),
            h("td", {}, untrusted(finding.message)),
          ),
        ),
      ),
  ];
}

function distributionTable(distributions) {
  const keys = [...new Set(Object.values(distributions).flatMap((one) => Object.keys(one)))].filter((key) => key !== "bins");
  return table(
    ["", ...keys],
    Object.entries(distributions).map(([name, one]) =>
      h("tr", {}, h("th", { scope: "row" }, name.replaceAll("_", " ")), keys.map((key) => h("td", { class: "num" }, formatNumber(one[key])))),
    ),
  );
}

function bars(counts) {
  const highest = Math.max(1, ...counts.map(([, count]) => count));
  return h(
    "div",
    { class: "bars" },
    counts.map(([label, count]) =>
      h("div", { class: "bar" }, h("span", {}, String(count)), h("i", { vars: { "--height": `${(100 * count) / highest}%` } }), h("small", {}, label)),
    ),
  );
}
