// What is shown, as one PNG: the image with its map, and below it question, answer, scale and where it comes from.

const LONGEST = 4096; // pixels: browsers refuse much larger canvases
const INK = "#1c1f22";
const FAINT = "#5b6066";

// Lines of a text that fit a width; a word that is longer than a line stands by itself.
function wrap(context, text, width) {
  const lines = [];
  for (const word of text.split(/(?<=\s)|(?<=[\u3000-\u9fff])/u)) {
    const last = lines.at(-1);
    if (last !== undefined && context.measureText((last + word).trimEnd()).width <= width) lines[lines.length - 1] += word;
    else lines.push(word);
  }
  return lines.map((line) => line.trimEnd());
}

// `image` and `overlay` are drawn over each other; `outline`: null, or {path, width} in pixels of an image of that width;
// `box`, shares of the sides, or null; `scale`: {canvas, less, more}.
export function savedPicture({ image, overlay, outline, box, question, answer, notes, scale }) {
  const { naturalWidth, naturalHeight } = image;
  const factor = Math.min(1, LONGEST / Math.max(naturalWidth, naturalHeight));
  const [width, height] = [naturalWidth, naturalHeight].map((side) => Math.round(side * factor));
  const unit = Math.max(15, width / 40); // pixels: of the letters
  const fonts = { question: `${unit}px system-ui, sans-serif`, answer: `700 ${1.4 * unit}px system-ui, sans-serif`, note: `${0.8 * unit}px system-ui, sans-serif` };
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const room = Math.max(width, 320) - 2 * unit;
  const rows = [[question, "question", FAINT], [answer, "answer", INK], ...notes.map((note) => [note, "note", FAINT])].flatMap(([text, font, colour]) => {
    context.font = fonts[font];
    return wrap(context, text, room).map((line) => ({ line, font: fonts[font], colour, height: { question: 1.4, answer: 1.8, note: 1.2 }[font] * unit }));
  });
  const band = rows.reduce((sum, row) => sum + row.height, 0) + (scale ? 1.8 * unit : 0) + 1.4 * unit;
  [canvas.width, canvas.height] = [Math.max(width, 320), Math.round(height + band)];
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const layer of [image, overlay]) context.drawImage(layer, 0, 0, width, height);
  const strokes = [["#000000", 0.28], ["#ffffff", 0.14]];
  if (outline) {
    const scaled = width / outline.width;
    context.save();
    context.scale(scaled, scaled);
    context.lineCap = "round";
    for (const [colour, line] of strokes) {
      [context.strokeStyle, context.lineWidth] = [colour, (line * unit) / scaled];
      context.stroke(new Path2D(outline.path));
    }
    context.restore();
  }
  if (box) {
    for (const [colour, line] of strokes) {
      [context.strokeStyle, context.lineWidth] = [colour, line * unit];
      context.strokeRect(box.left * width, box.top * height, (box.right - box.left) * width, (box.bottom - box.top) * height);
    }
  }
  let top = height + 0.6 * unit;
  context.textBaseline = "top";
  const write = (text, left, font, colour) => {
    [context.font, context.fillStyle] = [font, colour];
    context.fillText(text, left, top);
    return context.measureText(text).width;
  };
  for (const row of rows) {
    write(row.line, unit, row.font, row.colour);
    top += row.height;
  }
  if (scale) {
    top += 0.4 * unit;
    const less = write(scale.less, unit, fonts.note, FAINT);
    const bar = [1.5 * unit + less, top + 0.1 * unit, 8 * unit, 0.7 * unit];
    context.fillStyle = "#b9b4a8";
    context.fillRect(...bar);
    context.drawImage(scale.canvas, ...bar);
    write(scale.more, 2 * unit + less + 8 * unit, fonts.note, FAINT);
  }
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}
