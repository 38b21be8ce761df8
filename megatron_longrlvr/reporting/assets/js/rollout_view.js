// One rollout: question, chunks as the response treated them, answer, reward, response; and what
// changed against another response to the same prompt.

const MARKS = {
  found: { sign: "\u2713", words: "evidence, cited" },
  missed: { sign: "\u25cb", words: "evidence, not cited" },
  wrong: { sign: "\u2717", words: "cited, not evidence" },
};

function markOf(chunk, evidence, cited) {
  if (evidence.has(chunk)) return cited.has(chunk) ? "found" : "missed";
  return cited.has(chunk) ? "wrong" : "none";
}

function badge(kind, ...content) {
  return h("span", { class: `badge ${kind}` }, content);
}

function answerBadge(rollout) {
  if (!rollout.valid) return badge("missed", "no reward known");
  if (!("answer" in rollout.parts)) return null;
  return isRight(rollout) ? badge("found", "\u2713 answer right") : badge("wrong", "\u2717 answer wrong");
}

function rolloutView(rollout, onCompare) {
  const prompt = promptOf(rollout);
  return h(
    "article",
    { class: "rollout", "data-index": rollout.index },
    h(
      "header",
      {},
      h(
        "h3",
        {},
        swatch(rollout.run),
        untrusted(runOf(rollout).label),
        ` step ${rollout.step}, ${KIND_NAMES[rollout.kind]}, sample ${rollout.sample}`,
      ),
      h(
        "div",
        { class: "badges" },
        badge("", `reward ${rollout.reward.toFixed(3)}`),
        answerBadge(rollout),
        "context_f_beta" in rollout.parts && badge("", `${store.data.f_beta} ${rollout.parts.context_f_beta.toFixed(3)}`),
        badge(rollout.parse === "ok" ? "" : "missed", "parse: ", untrusted(rollout.parse)),
        rollout.verdict && badge(rollout.verdict === "none" ? "missed" : "", "verdict: ", untrusted(rollout.verdict)),
        rollout.suspicions.map((name) => badge("wrong", untrusted(name))),
        rollout.alarms.map((name) => badge("wrong", "judge attack: ", untrusted(name))),
      ),
    ),
    compareBar(rollout, onCompare),
    h(
      "div",
      { class: "halves" },
      h("div", {}, h("h4", {}, "Question"), h("div", { class: "value" }, untrusted(prompt.question)), chunkList(rollout, prompt)),
      h("div", {}, outcome(rollout, prompt)),
    ),
    h(
      "p",
      { class: "source" },
      `${rollout.tokens} tokens, finished by `,
      untrusted(rollout.finish),
      `, policy version ${rollout.version}, prompt `,
      untrusted(prompt.id),
      rollout.reason ? [", no verdict because: ", untrusted(rollout.reason)] : "",
    ),
  );
}

function outcome(rollout, prompt) {
  const unknown = [...new Set(rollout.cited)].filter((chunk) => chunk < 0 || chunk >= prompt.chunks.length);
  const pair = (name, value) => h("div", {}, h("h4", {}, name), h("div", { class: "value" }, value));
  return [
    h(
      "div",
      { class: "pair" },
      pair("Answer", rollout.answer === null ? h("span", { class: "missing" }, "none") : untrusted(rollout.answer)),
      pair("Reference", untrusted(prompt.reference.join(" | "))),
      pair("Cited as written", h("span", { class: "id" }, rollout.cited.join(" ") || "none")),
      pair("Evidence", h("span", { class: "id" }, prompt.evidence.join(" "))),
    ),
    unknown.length > 0 && badge("wrong", `\u2717 cited, no such chunk: ${unknown.join(" ")}`),
    h("h4", {}, "Reward"),
    h(
      "table",
      { class: "parts" },
      h(
        "tbody",
        {},
        Object.entries(rollout.parts).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "num" }, value.toFixed(3)))),
        h("tr", { class: "total" }, h("th", { scope: "row" }, "total"), h("td", { class: "num" }, rollout.reward.toFixed(3))),
      ),
    ),
    h("h4", {}, "Response"),
    h("pre", { class: "response", tabindex: "0" }, untrusted(rollout.text)),
  ];
}

const MAX_PLAIN_CHUNKS = 60; // more of those that are neither evidence nor cited are folded

function chunkList(rollout, prompt) {
  const evidence = new Set(prompt.evidence);
  const cited = new Set(rollout.cited);
  const marks = prompt.chunks.map((_, chunk) => markOf(chunk, evidence, cited));
  const isLong = prompt.chunks.length > MAX_PLAIN_CHUNKS;
  const list = h("ol", { class: "chunks", tabindex: "0" });
  const fill = (showsAll) =>
    replaceChildren(list, prompt.chunks.map((text, chunk) => (showsAll || marks[chunk] !== "none" ? chunkItem(text, chunk, marks[chunk]) : null)));
  fill(!isLong);
  return [
    h(
      "h4",
      {},
      `${prompt.chunks.length} chunks`,
      isLong && [", evidence and cited ones ", h("button", { type: "button", class: "quiet", onclick: (event) => (fill(true), event.target.remove()) }, "show all")],
    ),
    list,
  ];
}

function chunkItem(text, chunk, mark) {
  const said = MARKS[mark];
  return h(
    "li",
    { class: mark },
    h("span", { class: "id" }, String(chunk)),
    text === null ? h("span", { class: "missing" }, "text left out") : untrusted(text, { class: "text" }),
    said && badge(mark, `${said.sign} ${said.words}`),
  );
}

function siblings(rollout) {
  return store.rollouts
    .filter((one) => one.prompt === rollout.prompt && one.index !== rollout.index && one.kind !== "alarm")
    .sort((a, b) => a.run - b.run || a.step - b.step || a.sample - b.sample);
}

function compareBar(rollout, onCompare) {
  const others = siblings(rollout);
  if (others.length === 0) return h("p", { class: "note" }, "No other response to this prompt is in the report.");
  const several = store.data.runs.length > 1;
  const select = h(
    "select",
    { class: "compare", onchange: () => onCompare(rollout, store.rollouts[Number(select.value)]) },
    option("", `Compare with one of ${others.length} other responses to this prompt`, true),
    others.slice(0, 500).map((one) =>
      option(one.index, `${several ? `${runOf(one).label} ` : ""}step ${one.step}, sample ${one.sample}, reward ${one.reward.toFixed(2)}`),
    ),
  );
  return h("p", { class: "compare-bar" }, h("label", {}, "Same prompt: ", select));
}

// before and after by step, so that the difference reads as what training did.
function comparisonView(first, second, onClose) {
  const [before, after] = first.step <= second.step ? [first, second] : [second, first];
  const column = (one) =>
    h(
      "td",
      {},
      h("div", { class: "badges" }, badge("", `reward ${one.reward.toFixed(3)}`), answerBadge(one)),
      h("div", { class: "id" }, one.cited.join(" ") || "cites nothing"),
      h("div", {}, one.answer === null ? h("span", { class: "missing" }, "no answer") : untrusted(one.answer)),
    );
  const named = (one) => [swatch(one.run), untrusted(runOf(one).label), ` step ${one.step}, sample ${one.sample}`];
  return h(
    "section",
    { class: "comparison-view", "aria-label": "Difference between two responses" },
    h("header", {}, h("h3", {}, "What changed"), h("button", { type: "button", class: "quiet", onclick: onClose }, "close")),
    table([named(before), named(after)], h("tr", {}, column(before), column(after))),
    diffView(before.text, after.text),
  );
}
