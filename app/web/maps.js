// Maps of the wire: decoding, joining a word's tokens, and words for where a map is strongest.

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

// Which ninth of the image got most of a map: [row, column] of a 3 x 3 split, each 0, 1 or 2.
export function place(map, attention, image) {
  const { rows, columns } = attention.grid;
  const { left, top, right, bottom } = attention.region;
  const third = (part) => Math.min(2, Math.max(0, Math.floor(part * 3)));
  const shares = new Array(9).fill(0);
  map.values.forEach((value, cell) => {
    const x = left + ((cell % columns) + 0.5) * ((right - left) / columns);
    const y = top + (Math.floor(cell / columns) + 0.5) * ((bottom - top) / rows);
    shares[3 * third(y / image.height) + third(x / image.width)] += value;
  });
  const ninth = shares.indexOf(Math.max(...shares));
  return [Math.floor(ninth / 3), ninth % 3];
}
