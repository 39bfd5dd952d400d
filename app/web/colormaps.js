// Colour maps, each from ten control points of its published table (viridis, magma: Smith and van der Walt; cividis:
// Nuñez, Anderton and Renslow; all CC0). What was not looked at stays as it is in the photograph. `spotlight`, the first, is
// the other way round: it darkens what was not looked at. The strongest it lightens a little, so that it is seen on black as well.
const POINTS = {
  viridis: "440154 482878 3e4a7a 31688e 26828e 1f9e89 35b779 6dcd59 b4de2c fde725",
  magma: "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf",
  cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
};

function table(points) {
  const colours = points.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const position = (level / 255) * (colours.length - 1);
    const index = Math.min(Math.floor(position), colours.length - 2);
    const part = position - index;
    const cover = level / 255; // as crosslook/overlay.py
    return [...colours[index].map((low, band) => Math.round(low + (colours[index + 1][band] - low) * part)), cover];
  });
}

const DARK = [8, 10, 14]; // as crosslook/overlay.py
const LIGHT = [255, 248, 235];
const FALL = 1.3; // how steeply it falls into the dark
const TINT = 0.18; // how much of the strongest cell the light covers

// Light over darkness over the photograph, as one layer.
const spotlight = Array.from({ length: 256 }, (_, index) => {
  const level = index / 255;
  const [dark, light] = [(1 - level) ** FALL, TINT * level ** 3];
  const cover = 1 - (1 - dark) * (1 - light);
  return [...DARK.map((low, band) => Math.round((light * LIGHT[band] + (1 - light) * dark * low) / cover)), cover];
});

// name -> 256 entries of [red, green, blue, cover], from nothing to the map's strongest cell
export const COLOURS = {
  spotlight,
  ...Object.fromEntries(Object.entries(POINTS).map(([name, points]) => [name, table(points)])),
};
