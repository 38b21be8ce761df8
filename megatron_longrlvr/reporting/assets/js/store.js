// What the page knows: the data that came with it, and what the reader has chosen.

const store = {
  data: null,
  rollouts: [],
  view: { axis: "step", smoothing: 0, section: "overview" },
};

function load(data) {
  store.data = data;
  const { fields, rollouts } = data.table;
  store.rollouts = rollouts.map((row, index) => {
    const rollout = { index };
    fields.forEach((field, place) => (rollout[field] = row[place]));
    return rollout;
  });
  // The kind that logged a metric does not change: held-out names begin with eval/.
  store.totals = data.runs.map((run) => runningTotals(run.metrics.train));
}

function readEmbedded() {
  return JSON.parse(document.getElementById("data").textContent);
}

// Tokens and hours up to each training step, with 0 at step 0.
function runningTotals(train) {
  const total = (name, scale) => {
    const values = train.values[name];
    if (!values) return null;
    let sum = 0;
    return values.map((value) => (sum += (value || 0) * train.every * scale));
  };
  return {
    step: train.step,
    tokens: total("rollout/response_tokens", 1),
    hours: total("timing/step_s", 1 / 3600),
  };
}

// Where a step lies on an axis; null where the run did not log what the axis needs.
function position(runIndex, step, axis) {
  if (axis === "step") return step;
  const totals = store.totals[runIndex];
  if (!totals[axis]) return null;
  let low = 0;
  let high = totals.step.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (totals.step[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? 0 : totals[axis][low - 1];
}

// One metric of one run as {step, value}; null where it was never measured.
function metricOf(run, metric) {
  for (const kind of ["train", "eval"]) {
    const columns = run.metrics[kind];
    const value = columns.values[metric];
    if (value && value.some((one) => one !== null)) {
      return { step: columns.step, value, every: columns.every };
    }
  }
  return null;
}

function allMetrics() {
  const names = new Set();
  for (const run of store.data.runs) {
    for (const kind of ["train", "eval"]) Object.keys(run.metrics[kind].values).forEach((n) => names.add(n));
  }
  return [...names].sort();
}

// Exponential mean with the weight of the missing past taken out; gaps stay gaps.
function smoothed(values, weight) {
  let sum = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

// Verdict on a rollout in the words of the filter.
function isRight(rollout) {
  return (rollout.parts.answer || 0) >= store.data.right_answer;
}

function isGrounded(rollout) {
  return (rollout.parts.context_f_beta || 0) >= store.data.grounded_f_beta;
}

function promptOf(rollout) {
  return store.data.table.prompts[rollout.prompt];
}

function runOf(rollout) {
  return store.data.runs[rollout.run];
}

const KIND_NAMES = { train: "training", heldout: "held-out", alarm: "alarm" };

// Reads and keeps a choice of the reader; a browser may forbid to.
function remember(name, value) {
  try {
    localStorage.setItem(`longrlvr-report-${name}`, value);
  } catch (error) {
    return;
  }
}

function recall(name) {
  try {
    return localStorage.getItem(`longrlvr-report-${name}`);
  } catch (error) {
    return null;
  }
}
