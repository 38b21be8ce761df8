// What changed between two texts, word by word.

const MAX_DIFF_CELLS = 4e6; // of the table of common subsequences: 8 MB

// [[kind, text], ...] with kind "same", "gone" (only in before) or "new" (only in after).
function diffWords(before, after) {
  const split = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
  const words = diffParts(split(before), split(after));
  if (words) return words;
  const lines = diffParts(before.split(/(?<=\n)/), after.split(/(?<=\n)/));
  return lines || [["gone", before], ["new", after]];
}

// null where the two are too long to compare.
function diffParts(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let tail = 0;
  while (tail < a.length - start && tail < b.length - start && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const left = a.slice(start, a.length - tail);
  const right = b.slice(start, b.length - tail);
  if ((left.length + 1) * (right.length + 1) > MAX_DIFF_CELLS) return null;
  const middle = alignParts(left, right);
  return merged([["same", a.slice(0, start).join("")], ...middle, ["same", a.slice(a.length - tail).join("")]]);
}

// By the longest common subsequence; table[i][j] is its length in a[i:] and b[j:].
function alignParts(a, b) {
  const width = b.length + 1;
  const length = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      length[i * width + j] =
        a[i] === b[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const parts = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      parts.push(["same", a[i]]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      parts.push(["gone", a[i]]);
      i += 1;
    } else {
      parts.push(["new", b[j]]);
      j += 1;
    }
  }
  return parts;
}

function merged(parts) {
  const found = [];
  for (const [kind, text] of parts) {
    if (!text) continue;
    const last = found[found.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else found.push([kind, text]);
  }
  return found;
}

function diffView(before, after) {
  const tags = { same: "span", gone: "del", new: "ins" };
  return h("pre", { class: "diff" }, diffWords(before, after).map(([kind, text]) => h(tags[kind], {}, untrusted(text))));
}
