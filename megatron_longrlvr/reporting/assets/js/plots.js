// Line charts: one figure per chart, drawn by uPlot when it comes into view.

const CHART_HEIGHT = 210;
const DASHES = [[], [7, 3], [2, 3], [8, 3, 2, 3], [12, 4], [4, 2, 1, 2]];
const AXIS_NAMES = { step: "step", tokens: "response tokens", hours: "hours" };

const charts = new Set();

function chartFigure(chart) {
  const figure = h("figure", { class: "chart" }, h("h3", {}, chart.title));
  const lines = chartLines(chart);
  if (lines.length === 0) {
    append(figure, [h("p", { class: "missing empty" }, missingNote(chart)), chartCaption(chart, lines)]);
    return figure;
  }
  const place = h("div", { class: "plot", role: "img", "aria-label": describeLines(chart, lines) });
  const legend = h("div", { class: "legend" });
  const item = { chart, figure, place, legend, lines, hidden: new Set(), plot: null };
  append(figure, [place, legend, chartCaption(chart, lines)]);
  charts.add(item);
  sight.observe(place);
  fillLegend(item, null);
  return figure;
}

function missingNote(chart) {
  const isPlural = store.data.runs.length > 1;
  return isPlural ? "Not measured by any run." : "Not measured.";
}

// All lines of a chart that hold a measurement: colour by run, or by metric where there is one run.
function chartLines(chart) {
  const lines = [];
  const isAlone = store.data.runs.length === 1;
  store.data.runs.forEach((run, runIndex) => {
    chart.metrics.forEach(([metric, label], metricIndex) => {
      const found = metricOf(run, metric);
      if (!found) return;
      const said = [isAlone && label ? "" : run.label, label].filter(Boolean).join(", ");
      lines.push({
        runIndex,
        metric,
        label: said,
        found,
        color: isAlone ? metricIndex : runIndex,
        dash: isAlone ? DASHES[Math.floor(metricIndex / NUM_COLORS) % DASHES.length] : DASHES[metricIndex % DASHES.length],
      });
    });
  });
  return lines;
}

function describeLines(chart, lines) {
  const last = (line) => formatNumber([...line.found.value].reverse().find((value) => value !== null));
  return `${chart.title}. Last values: ${lines.map((line) => `${line.label} ${last(line)}`).join("; ")}`;
}

function chartCaption(chart, lines) {
  const sources = store.data.runs.map((run, runIndex) => {
    const own = lines.filter((line) => line.runIndex === runIndex);
    if (own.length === 0) return lines.length ? `Not measured by ${run.label}.` : null;
    const { step, value, every } = own[0].found;
    const gaps = value.filter((one) => one === null).length;
    return (
      `${run.label}: metrics.jsonl, steps ${step[0]} to ${step[step.length - 1]}, ${step.length} records` +
      (every > 1 ? `, every ${every}th shown` : "") + (gaps ? `, ${gaps} of them not measured` : "")
    );
  });
  return h(
    "figcaption",
    {},
    chart.note && h("p", { class: "said" }, chart.note),
    chart.caution && lines.length > 1 && h("p", { class: "said caution" }, chart.caution),
    h(
      "details",
      {},
      h("summary", {}, "Source"),
      chart.metrics.map(([metric]) => [h("code", {}, metric), " "]),
      sources.filter(Boolean).map((source) => h("div", {}, source)),
    ),
  );
}

function chartData(item) {
  const { axis, smoothing } = store.view;
  const tables = [];
  const series = [{}];
  item.lines.forEach((line, index) => {
    const x = line.found.step.map((step) => position(line.runIndex, step, axis));
    if (x.some((one) => one === null)) return;
    const isShown = !item.hidden.has(index);
    const color = cssColor(`--series-${line.color % NUM_COLORS}`);
    const base = { dash: line.dash, show: isShown, line: index };
    // A lone point needs a mark to be seen.
    const points = { show: line.found.value.filter((value) => value !== null).length < 40, size: 5 };
    if (smoothing > 0) {
      tables.push([x, line.found.value]);
      series.push({ ...base, stroke: `${color}44`, width: 1, points: { show: false }, isRaw: true });
    }
    const value = smoothing > 0 ? smoothed(line.found.value, smoothing) : line.found.value;
    tables.push([x, value]);
    series.push({ ...base, stroke: color, width: 1.8, points: { ...points, fill: color } });
  });
  return { data: tables.length ? uPlot.join(tables) : [[]], series };
}

function drawChart(item) {
  if (item.plot) item.plot.destroy();
  item.place.textContent = "";
  const { data, series } = chartData(item);
  if (series.length === 1) {
    const axis = AXIS_NAMES[store.view.axis];
    append(item.place, [h("p", { class: "missing empty" }, `The log does not say how many ${axis} a step took.`)]);
    item.plot = null;
    return;
  }
  const ink = cssColor("--soft");
  const rule = { stroke: cssColor("--rule"), width: 1 };
  const font = "11px system-ui, sans-serif";
  const range = item.chart.is_share
    ? [-0.02, 1.02]
    : (u, low, high) => (low === null ? [0, 1] : uPlot.rangeNum(Math.min(low, 0), high === low ? low + 1 : high, 0.05, true));
  const options = {
    width: Math.max(item.place.clientWidth, 200),
    height: CHART_HEIGHT,
    series,
    legend: { show: false },
    scales: { x: { time: false }, y: { range } },
    cursor: { sync: { key: "charts" }, points: { size: 7 }, drag: { x: true, y: false } },
    axes: [
      { stroke: ink, grid: rule, ticks: rule, font, size: 30, values: (u, ticks) => ticks.map(shortTick) },
      { stroke: ink, grid: rule, ticks: rule, font, size: 54, values: (u, ticks) => ticks.map(shortTick) },
    ],
    hooks: { setCursor: [(u) => fillLegend(item, u)] },
  };
  item.plot = new uPlot(options, data, item.place);
  fillLegend(item, item.plot);
}

function shortTick(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size >= 1e4) return `${Number((value / (size >= 1e9 ? 1e9 : size >= 1e6 ? 1e6 : 1e3)).toFixed(2))}${size >= 1e9 ? "G" : size >= 1e6 ? "M" : "k"}`;
  return size !== 0 && size < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(4)));
}

// One button a line: its colour, name and value under the cursor; pressed lines are hidden.
function fillLegend(item, plot) {
  const index = plot && plot.cursor.idx;
  const isAt = index !== null && index !== undefined;
  if (item.legend.childElementCount === 0) {
    item.buttons = item.lines.map((line, place) => {
      const value = h("span", { class: "value" });
      const button = h(
        "button",
        { type: "button", class: "line", "aria-pressed": "true", onclick: () => toggleLine(item, place) },
        lineSample(line),
        untrusted(line.label),
        value,
      );
      item.legend.append(button);
      return { button, value };
    });
    item.where = item.legend.appendChild(h("span", { class: "where" }));
  }
  item.where.textContent = isAt ? `${AXIS_NAMES[store.view.axis]} ${formatNumber(plot.data[0][index])}` : "";
  item.lines.forEach((line, place) => {
    let value = "";
    if (isAt) {
      const number = plot.series.findIndex((one) => one.line === place && !one.isRaw);
      const read = number < 0 ? undefined : plot.data[number][index];
      value = read === undefined || read === null ? "" : formatNumber(read);
    }
    item.buttons[place].value.textContent = value;
  });
}

// A piece of the line in its colour and dash.
function lineSample(line) {
  const color = seriesColor(line.color);
  let start = 0;
  const stops = line.dash.map((length, place) => {
    const stop = `${place % 2 ? "transparent" : color} ${start}px ${start + length}px`;
    start += length;
    return stop;
  });
  const fill = stops.length ? `repeating-linear-gradient(90deg, ${stops.join(", ")})` : color;
  return h("i", { class: "line-sample", vars: { background: fill }, "aria-hidden": "true" });
}

function toggleLine(item, place) {
  if (item.hidden.has(place)) item.hidden.delete(place);
  else item.hidden.add(place);
  const isShown = !item.hidden.has(place);
  item.buttons[place].button.setAttribute("aria-pressed", String(isShown));
  item.plot.series.forEach((one, number) => {
    if (number > 0 && one.line === place) item.plot.setSeries(number, { show: isShown });
  });
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const item = [...charts].find((one) => one.place === entry.target);
      if (item && entry.isIntersecting && !item.plot) drawChart(item);
    }
  },
  { rootMargin: "200px" },
);

function redrawCharts() {
  for (const item of charts) {
    if (!item.place.isConnected) {
      charts.delete(item);
      if (item.plot) item.plot.destroy();
    } else if (item.plot && item.place.offsetParent) drawChart(item);
    else {
      if (item.plot) item.plot.destroy();
      item.plot = null;
      item.place.textContent = "";
      sight.unobserve(item.place);
      sight.observe(item.place);
    }
  }
}

addEventListener("resize", debounced(150, redrawCharts));
