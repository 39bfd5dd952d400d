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
  view = { opacity: 0.7, colours: "viridis", smooth: true };

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  // Show a map (null: none); `attention` and `image` say where its grid lies.
  show(map, attention, image) {
    const sameGrid = this.#shown && map && attention.grid.rows === this.#attention?.grid.rows
      && attention.grid.columns === this.#attention?.grid.columns;
    const from = sameGrid ? this.#shown : null;
    [this.#attention, this.#image] = [attention, image];
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
    const colours = COLOURS[this.view.colours];
    const pixels = this.#context.createImageData(across, down);
    let at = 0;
    for (const [r0, r1, dy] of ys) {
      for (const [c0, c1, dx] of xs) {
        if (r0 >= 0 && c0 >= 0) {
          const upper = levels[r0 * columns + c0] * (1 - dx) + levels[r0 * columns + c1] * dx;
          const lower = levels[r1 * columns + c0] * (1 - dx) + levels[r1 * columns + c1] * dx;
          const [red, green, blue, cover] = colours[Math.round(255 * (upper * (1 - dy) + lower * dy))];
          pixels.data[at] = red;
          pixels.data[at + 1] = green;
          pixels.data[at + 2] = blue;
          pixels.data[at + 3] = 255 * this.view.opacity * cover;
        }
        at += 4;
      }
    }
    this.#context.putImageData(pixels, 0, 0);
  }

  // For each canvas pixel along one axis: the two cells it lies between and its share of the second; -1 outside.
  #axis(pixels, size, low, high, cells) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const position = ((((pixel + 0.5) / pixels) * size - low) / (high - low)) * cells;
      if (position < 0 || position >= cells) return [-1, -1, 0];
      if (!this.view.smooth) return [Math.floor(position), Math.floor(position), 0];
      const centred = Math.min(cells - 1, Math.max(0, position - 0.5));
      const first = Math.floor(centred);
      return [first, Math.min(cells - 1, first + 1), centred - first];
    });
  }
}
