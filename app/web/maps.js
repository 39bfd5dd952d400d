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

// Which ninth of the image the strongest cell lies in, the brightest spot of what is drawn (crosslook/maps.py, `peak`):
// [row, column] of a 3 x 3 split, each 0, 1 or 2; the middle ones are a little wider.
export function place(map, attention, image) {
  const peak = map.values.indexOf(strongest(map));
  const { columns } = attention.grid;
  const [row, column] = [Math.floor(peak / columns), peak % columns];
  const { left, top } = onImage(attention, image, column + 0.5, row + 0.5, column + 0.5, row + 0.5);
  const third = (part) => (part < 0.3 ? 0 : part <= 0.7 ? 1 : 2);
  return [third(top), third(left)];
}

// The strongest region: the strongest cell and all with at least half of its value that hang together with it, as a
// rectangle of shares of the image's sides.
export function region(map, attention, image) {
  const { rows, columns } = attention.grid;
  const half = strongest(map) / 2;
  const todo = [map.values.indexOf(strongest(map))];
  const seen = new Set(todo);
  while (todo.length) {
    const cell = todo.pop();
    const [row, column] = [Math.floor(cell / columns), cell % columns];
    for (const [r, c] of [[row - 1, column], [row + 1, column], [row, column - 1], [row, column + 1]]) {
      const next = r * columns + c;
      if (r < 0 || c < 0 || r >= rows || c >= columns || seen.has(next) || map.values[next] < half) continue;
      seen.add(next);
      todo.push(next);
    }
  }
  const [ys, xs] = [[...seen].map((cell) => Math.floor(cell / columns)), [...seen].map((cell) => cell % columns)];
  return onImage(attention, image, Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1);
}
