// Maps of the wire: decoding, joining a word's tokens, and where a map is strongest.

// A map of the wire -> {values: Float32Array, row-major, elsewhere}, or null where there is none.
export function decode(wire) {
  if (!wire) return null;
  const values = wire.data === undefined
    ? Float32Array.from(wire.values.flat())
    : Float32Array.from(atob(wire.data), (byte) => byte.charCodeAt(0) * wire.scale);
  return { values, elsewhere: wire.elsewhere };
}

// The map of a word: the mean of its tokens' maps.
export function ofWord(word, tokens) {
  const maps = word.tokens.map((index) => decode(tokens[index].map)).filter(Boolean);
  if (!maps.length) return null;
  const values = new Float32Array(maps[0].values.length);
  let elsewhere = 0;
  for (const map of maps) {
    map.values.forEach((value, cell) => { values[cell] += value / maps.length; });
    elsewhere += map.elsewhere / maps.length;
  }
  return { values, elsewhere };
}

export const strongest = (map) => map.values.reduce((best, value) => Math.max(best, value), 0);

// A rectangle of cells as shares of the image's sides, cut where the grid exceeds the image.
function onImage({ grid, region }, image, left, top, right, bottom) {
  const cut = (cells, count, low, high, size) => Math.min(1, Math.max(0, (low + (cells * (high - low)) / count) / size));
  const x = (cells) => cut(cells, grid.columns, region.left, region.right, image.width);
  const y = (cells) => cut(cells, grid.rows, region.top, region.bottom, image.height);
  return { left: x(left), top: y(top), right: x(right), bottom: y(bottom) };
}

// How much of a map may be off the image until it says little of the image. Of a rollout half stays with the words anyway.
const MOST = { raw: 0.5, gradient: 0.5, rollout: 0.75 };

// The share of a map that lies on no place of the image, 0 to 1 (crosslook/maps.py, `off_image`).
export function offImage({ values, elsewhere }, { kind }) {
  if (!(kind in MOST)) return 0;
  const whole = kind === "gradient" ? elsewhere + values.reduce((sum, value) => sum + Math.max(0, value), 0) : 1; // no unit
  return whole > 0 ? elsewhere / whole : 0;
}

// How strongly a map is drawn, 0 to 1: less than 1 where most of it is off the image. A model that writes (and so names its
// answer's tokens, also of one that it chose) attends to its text most, whatever is asked: its maps are compared with each
// other alone.
export function strengthOf(map, attention, { score_over: over, answer_tokens: written }) {
  const most = MOST[attention.kind];
  return !most || over === "sequence" || written.length ? 1 : Math.min(1, (1 - offImage(map, attention)) / (1 - most));
}

// Which ninth of the image the strongest cell lies in, the brightest spot of what is drawn (crosslook/maps.py, `peak`):
// [row, column] of a 3 x 3 split, each 0, 1 or 2; the middle ones are a little narrower.
export function place(map, attention, image) {
  const peak = map.values.indexOf(strongest(map));
  const { columns } = attention.grid;
  const [row, column] = [Math.floor(peak / columns), peak % columns];
  const { left, top } = onImage(attention, image, column + 0.5, row + 0.5, column + 0.5, row + 0.5);
  const third = (part) => (part <= 0.375 ? 0 : part < 0.625 ? 1 : 2);
  return [third(top), third(left)];
}

const PART = 1 / 8; // of the grid: the strongest region is no larger, however even a map is

// The strongest region: the strongest cell and, the strongest first, those with at least half of its value that hang together
// with it. {cells: Set of indices, level: what they have at least}
export function strongestCells({ values }, { grid: { rows, columns } }) {
  const peak = strongest({ values });
  const cells = new Set();
  const border = new Set([values.indexOf(peak)]);
  let least = peak;
  while (border.size) {
    const next = [...border].reduce((best, cell) => (values[cell] > values[best] ? cell : best));
    if (values[next] < peak / 2 || cells.size >= Math.max(1, rows * columns * PART)) {
      return { cells, level: Math.max(peak / 2, (least + Math.min(least, values[next])) / 2) };
    }
    border.delete(next);
    cells.add(next);
    least = Math.min(least, values[next]);
    const [row, column] = [Math.floor(next / columns), next % columns];
    for (const [r, c] of [[row - 1, column], [row + 1, column], [row, column - 1], [row, column + 1]]) {
      const cell = r * columns + c;
      if (r >= 0 && c >= 0 && r < rows && c < columns && !cells.has(cell)) border.add(cell);
    }
  }
  return { cells, level: least };
}
