// The controls below the image: how a map is drawn, and which layer and kind of map is asked for.
import { COLOURS } from "./colormaps.js";
import { t } from "./i18n.js";

const $ = (id) => document.getElementById(id);

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

// Fill the lists with what there is: colours always, layers and kinds as the server's model (null: not known yet) has.
export function showOptions(view, model) {
  const [kind, layer] = [$("kind").value, $("layer").value];
  fill($("colours"), Object.keys(COLOURS).map((name) => [name, t(`colours_${name}`)]));
  $("colours").value = view.colours;
  if (!model) return;
  fill($("kind"), model.map_kinds.map((name) => [name, t(`kind_${name}`)]));
  $("kind").value = kind || model.default_map_kind || "";
  $("kind-field").hidden = model.map_kinds.length < 2;
  $("kinds").replaceChildren(...model.map_kinds.flatMap((name) => [
    Object.assign(document.createElement("dt"), { textContent: t(`kind_${name}`) }),
    Object.assign(document.createElement("dd"), { textContent: `${t(`explain_${name}`)} ${t("named", { name })}` }),
  ]));
  const some = model.default_layers; // absent where the default is all of them
  const single = model.layers.filter((index) => some?.join() !== String(index)).map((index) => [String(index), String(index + 1)]);
  const open = some ? [["", some.map((index) => index + 1).join("+")], ["all", t("allLayers")]] : [["", t("allLayers")]];
  fill($("layer"), [...open, ...single]);
  $("layer").value = layer;
  $("layer-field").hidden = model.layers.length < 2;
}

// What was chosen, as a request wants it: null where it is the model's own choice.
export const chosenKind = (model) => ($("kind").value && $("kind").value !== model?.default_map_kind ? $("kind").value : null);
export function chosenLayers(model) {
  const chosen = $("layer").value;
  if (chosen === "all") return model.layers;
  return chosen ? [Number(chosen)] : null;
}

// Make the lists say what an answer's maps are; those of an answer without maps stay.
export function choose({ asked, response }, model) {
  if (!response.attention) return;
  $("kind").value = response.attention.kind;
  const all = model?.default_layers && asked.layers?.length === model.layers.length;
  $("layer").value = all ? "all" : String(asked.layers ?? "");
}

// The colours from nothing to the strongest cell, for the legend; behind them is what stands for a photograph (style.css).
export function drawScale({ colours }) {
  const canvas = $("scale");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (let x = 0; x < canvas.width; x += 1) {
    const [red, green, blue, cover] = COLOURS[colours][Math.round((255 * x) / (canvas.width - 1))];
    context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${cover})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
