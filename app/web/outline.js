// The line around a map's strongest region, as it is drawn between the centres of the cells (marching squares).
import { strongestCells } from "./maps.js";

const INSET = 0.004; // of the image's longer side: so far from its edges the line stays in sight

// {path: of an SVG whose unit is a pixel of the image, box: the rectangle around it, in shares of the image's sides}
export function outline(map, attention, image) {
  const { cells, level } = strongestCells(map, attention);
  const { grid: { rows, columns }, region } = attention;
  const inset = INSET * Math.max(image.width, image.height);
  const place = (cell, count, low, high, size) => Math.min(size - inset, Math.max(inset, low, Math.min(high, low + ((cell + 0.5) * (high - low)) / count)));
  const valueAt = (row, column) => {
    if (row < 0 || column < 0 || row >= rows || column >= columns) return 0;
    const cell = row * columns + column;
    return cells.has(cell) ? map.values[cell] : Math.max(0, Math.min(map.values[cell], 0.999 * level));
  };
  const lines = [];
  for (let row = -1; row < rows; row += 1) {
    for (let column = -1; column < columns; column += 1) {
      const corners = [[row, column], [row, column + 1], [row + 1, column + 1], [row + 1, column]];
      const values = corners.map(([r, c]) => valueAt(r, c));
      const crossings = corners.flatMap(([r, c], index) => {
        const [value, next, [toRow, toColumn]] = [values[index], values[(index + 1) % 4], corners[(index + 1) % 4]];
        if ((value >= level) === (next >= level)) return [];
        const part = (level - value) / (next - value);
        const x = place(c + (toColumn - c) * part, columns, region.left, region.right, image.width);
        const y = place(r + (toRow - r) * part, rows, region.top, region.bottom, image.height);
        return [[x.toFixed(1), y.toFixed(1)]];
      });
      if (crossings.length === 4 && values[0] >= level) crossings.push(crossings.shift()); // each line cuts off one corner
      for (let at = 0; at < crossings.length; at += 2) lines.push([crossings[at], crossings[at + 1]]);
    }
  }
  const ends = lines.flat();
  const [xs, ys] = [ends.map(([x]) => x / image.width), ends.map(([, y]) => y / image.height)];
  return {
    path: lines.map(([[x, y], [toX, toY]]) => `M${x} ${y}L${toX} ${toY}`).join(""),
    box: { left: Math.min(...xs), top: Math.min(...ys), right: Math.max(...xs), bottom: Math.max(...ys) },
  };
}
