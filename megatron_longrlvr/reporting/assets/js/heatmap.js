// Heat maps: rows by steps, on a canvas, with the value under the pointer or the keyboard in words.

const HEAT_LEFT = 92;
const HEAT_BOTTOM = 20;
const MAX_HEAT_HEIGHT = 460;

// map: {title, rows: [{label, isMarked}], columns: [label], values: [row][column] in [0, 1] or
// null, rowName, columnName, note}.
function heatmapFigure(map) {
  const canvas = h("canvas", { class: "heat", tabindex: "0", role: "img" });
  const said = h("p", { class: "readout", "aria-live": "polite" }, "\u00a0");
  const figure = h(
    "figure",
    { class: "chart wide" },
    h("h3", {}, map.title),
    canvas,
    h("div", { class: "heat-foot" }, said, heatScale()),
    map.note && h("figcaption", {}, map.note),
  );
  const place = { row: 0, column: map.columns.length - 1, isChosen: false };
  const draw = () => drawHeat(canvas, map, place);
  const say = () => {
    const value = map.values[place.row][place.column];
    const row = map.rows[place.row];
    said.textContent =
      `${map.rowName} ${row.label}${row.isMarked ? " (evidence)" : ""}, ${map.columnName} ` +
      `${map.columns[place.column]}: ${value === null ? "not measured" : formatNumber(value)}`;
  };
  canvas.setAttribute("aria-label", `${map.title}; arrow keys read it out`);
  canvas.addEventListener("mousemove", (event) => {
    const cell = cellAt(canvas, map, event.offsetX, event.offsetY);
    if (!cell) return;
    Object.assign(place, cell, { isChosen: true });
    draw();
    say();
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    place.row = Math.min(Math.max(place.row + move[0], 0), map.rows.length - 1);
    place.column = Math.min(Math.max(place.column + move[1], 0), map.columns.length - 1);
    place.isChosen = true;
    draw();
    say();
  });
  heatDraws.add({ canvas, draw });
  requestAnimationFrame(draw);
  new ResizeObserver(draw).observe(canvas);
  return figure;
}

const heatDraws = new Set();

function redrawHeatmaps() {
  for (const one of heatDraws) {
    if (one.canvas.isConnected) one.draw();
    else heatDraws.delete(one);
  }
}

function heatScale() {
  return h("span", { class: "heat-scale" }, "0", h("i", { class: "heat-bar" }), "1");
}

function heatSize(canvas, map) {
  const row = Math.max(3, Math.min(20, Math.floor(MAX_HEAT_HEIGHT / map.rows.length)));
  return { row, width: canvas.clientWidth - HEAT_LEFT, height: row * map.rows.length };
}

function cellAt(canvas, map, x, y) {
  const size = heatSize(canvas, map);
  const row = Math.floor(y / size.row);
  const column = Math.floor(((x - HEAT_LEFT) / size.width) * map.columns.length);
  const isInside = row >= 0 && row < map.rows.length && column >= 0 && column < map.columns.length;
  return isInside ? { row, column } : null;
}

function drawHeat(canvas, map, place) {
  if (!canvas.clientWidth || !map.columns.length) return;
  const size = heatSize(canvas, map);
  const ratio = devicePixelRatio || 1;
  const height = size.height + HEAT_BOTTOM;
  const pixels = [Math.round(canvas.clientWidth * ratio), Math.round(height * ratio)];
  canvas.style.height = `${height}px`;
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, height);
  const low = rgbOf(cssColor("--heat-low"));
  const high = rgbOf(cssColor("--heat-high"));
  const step = size.width / map.columns.length;
  map.values.forEach((row, r) => {
    row.forEach((value, c) => {
      if (value === null) return;
      context.fillStyle = mix(low, high, value);
      context.fillRect(HEAT_LEFT + c * step, r * size.row, Math.ceil(step), size.row - (size.row > 8 ? 1 : 0));
    });
  });
  labelHeat(context, map, size, step);
  if (place.isChosen) {
    context.strokeStyle = cssColor("--ink");
    context.strokeRect(HEAT_LEFT + place.column * step + 0.5, place.row * size.row + 0.5, Math.max(step - 1, 2), size.row - 1);
  }
}

function labelHeat(context, map, size, step) {
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  const every = Math.ceil(13 / size.row);
  map.rows.forEach((row, r) => {
    if (row.isMarked) {
      context.fillStyle = cssColor("--found");
      context.fillRect(HEAT_LEFT - 6, r * size.row, 4, size.row - (size.row > 3 ? 1 : 0));
    }
    if (r % every && !row.isMarked) return;
    context.fillStyle = cssColor(row.isMarked ? "--found" : "--soft");
    if (size.row >= 9 || r % every === 0) context.fillText(row.label, HEAT_LEFT - 10, (r + 0.5) * size.row, HEAT_LEFT - 12);
  });
  context.fillStyle = cssColor("--soft");
  context.textAlign = "center";
  const gap = Math.ceil(44 / step);
  map.columns.forEach((label, c) => {
    if (c % gap === 0) context.fillText(label, HEAT_LEFT + (c + 0.5) * step, size.height + 11);
  });
}

function rgbOf(color) {
  const digits = color.replace("#", "");
  return [0, 2, 4].map((start) => parseInt(digits.slice(start, start + 2), 16));
}

function mix(low, high, share) {
  const t = Math.min(Math.max(share, 0), 1);
  return `rgb(${low.map((from, i) => Math.round(from + (high[i] - from) * t)).join(",")})`;
}

// Tenth of the document by step: recall, precision or citations, in training or held out.
function positionMap(run, quantity, isHeldout) {
  const prefix = isHeldout ? "eval/" : "";
  const found = [...Array(10).keys()].map((tenth) =>
    metricOf(run, `${prefix}grounding/decile_${tenth}_${quantity}_frac`),
  );
  const any = found.find(Boolean);
  if (!any) return null;
  return {
    title: run.label,
    rows: found.map((_, tenth) => ({ label: `${tenth * 10}-${tenth * 10 + 10} %` })),
    columns: any.step.map(String),
    values: found.map((one) => any.step.map((_, place) => (one ? one.value[place] : null))),
    rowName: "chunks beginning at",
    columnName: "step",
  };
}

// How often the responses to one prompt cite each of its chunks, by step, of one run.
function chunkMap(promptIndex, runIndex) {
  const prompt = store.data.table.prompts[promptIndex];
  const bySteps = new Map();
  for (const rollout of store.rollouts) {
    if (rollout.prompt !== promptIndex || rollout.run !== runIndex || rollout.kind === "alarm") continue;
    if (!bySteps.has(rollout.step)) bySteps.set(rollout.step, []);
    bySteps.get(rollout.step).push(new Set(rollout.cited));
  }
  const steps = [...bySteps.keys()].sort((a, b) => a - b);
  if (steps.length === 0) return null;
  const evidence = new Set(prompt.evidence);
  return {
    title: store.data.runs[runIndex].label,
    rows: prompt.chunks.map((_, chunk) => ({ label: `chunk ${chunk}`, isMarked: evidence.has(chunk) })),
    columns: steps.map(String),
    values: prompt.chunks.map((_, chunk) =>
      steps.map((step) => {
        const cited = bySteps.get(step);
        return cited.filter((one) => one.has(chunk)).length / cited.length;
      }),
    ),
    rowName: "",
    columnName: "step",
  };
}
