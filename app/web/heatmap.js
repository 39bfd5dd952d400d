// Draws a map over the image. The canvas lies over the whole image; the map fills the part that its region covers.
import { COLOURS } from "./colormaps.js";
import { strongest } from "./maps.js";

const LONGEST = 480; // pixels of the canvas: plenty for a smooth map, quick enough to animate
const FADE = 160; // milliseconds from one map to the next

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Heatmap {
  #canvas;
  #context;
  #attention = null;
  #image = null;
  #shown = null; // levels 0..1 as drawn now
  #frame = 0;
  #strength = 1;
  view = { opacity: 0.8, colours: "spotlight", smooth: true };

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  // Show a map (null: none); `attention` and `image` say where its grid lies; `strength`, 0 to 1, makes it fainter.
  show(map, attention, image, strength = 1) {
    const sameGrid = this.#shown && map && attention.grid.rows === this.#attention?.grid.rows
      && attention.grid.columns === this.#attention?.grid.columns;
    const from = sameGrid ? this.#shown : null;
    [this.#attention, this.#image, this.#strength] = [attention, image, strength];
    cancelAnimationFrame(this.#frame);
    if (!map) return this.clear();
    const peak = strongest(map);
    const to = map.values.map((value) => (peak > 0 ? Math.max(0, value) / peak : 0));
    if (!from || calm.matches || document.hidden) return this.#draw(to);
    const start = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, (now - start) / FADE));
      const eased = part * (2 - part);
      this.#draw(to.map((value, cell) => from[cell] + (value - from[cell]) * eased));
      if (part < 1) this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  // Draw again, after `view` changed.
  redraw() {
    if (this.#shown) this.#draw(this.#shown);
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#shown = null;
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  #draw(levels) {
    this.#shown = levels;
    const { width, height } = this.#image;
    const factor = Math.min(1, LONGEST / Math.max(width, height));
    const [across, down] = [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
    if (this.#canvas.width !== across || this.#canvas.height !== down) {
      [this.#canvas.width, this.#canvas.height] = [across, down];
    }
    const { rows, columns } = this.#attention.grid;
    const { left, top, right, bottom } = this.#attention.region;
    const xs = this.#axis(across, width, left, right, columns);
    const ys = this.#axis(down, height, top, bottom, rows);
    const wide = new Float32Array(rows * across); // the grid, made as wide as the canvas
    for (let row = 0; row < rows; row += 1) {
      xs.forEach(({ taps }, x) => {
        for (const [column, weight] of taps) wide[row * across + x] += weight * levels[row * columns + column];
      });
    }
    const limits = tops(levels, rows, columns);
    const colours = COLOURS[this.view.colours];
    const pixels = this.#context.createImageData(across, down);
    ys.forEach(({ cell: row, taps }, y) => {
      xs.forEach(({ cell: column }, x) => {
        if (row < 0 || column < 0) return;
        let level = 0;
        for (const [tap, weight] of taps) level += weight * wide[tap * across + x];
        level = Math.max(0, Math.min(level, limits[row * columns + column]));
        const [red, green, blue, cover] = colours[Math.round(255 * level)];
        pixels.data.set([red, green, blue, 255 * this.#strength * this.view.opacity * cover], 4 * (y * across + x));
      });
    });
    this.#context.putImageData(pixels, 0, 0);
  }

  // For each canvas pixel along one axis: the cell it lies in, -1 outside of the grid, and as `taps` the [cell, weight]
  // that its value is made of.
  #axis(pixels, size, low, high, cells) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const position = ((((pixel + 0.5) / pixels) * size - low) / (high - low)) * cells;
      if (position < 0 || position >= cells) return { cell: -1, taps: [] };
      const cell = Math.floor(position);
      if (!this.view.smooth) return { cell, taps: [[cell, 1]] };
      const first = Math.floor(position - 0.5);
      const taps = [first - 1, first, first + 1, first + 2]
        .filter((tap) => tap >= 0 && tap < cells)
        .map((tap) => [tap, cubic(Math.abs(position - 0.5 - tap))]);
      const sum = taps.reduce((total, [, weight]) => total + weight, 0);
      return { cell, taps: taps.map(([tap, weight]) => [tap, weight / sum]) };
    });
  }
}

// Keys' cubic convolution, as Pillow's BICUBIC, which draws the PNGs (crosslook/overlay.py).
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2);

// For each cell the strongest of it and its neighbours. A smooth curve rises above its points here and there: so limited,
// no place outdoes the cells around it, and the strongest stays where it is.
function tops(levels, rows, columns) {
  return levels.map((_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    let top = 0;
    for (let r = Math.max(0, row - 1); r <= Math.min(rows - 1, row + 1); r += 1) {
      for (let c = Math.max(0, column - 1); c <= Math.min(columns - 1, column + 1); c += 1) top = Math.max(top, levels[r * columns + c]);
    }
    return top;
  });
}
