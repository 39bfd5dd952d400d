// Shows an answer that is there: its text, its maps on the image, the code that asks for it; and takes it away.
import { percent, place, quoted, t } from "./i18n.js";
import { writeLink } from "./link.js";
import * as maps from "./maps.js";
import { choose } from "./options.js";
import { outline } from "./outline.js";
import { warn } from "./notices.js";
import { savedPicture } from "./picture.js";
import { inWords, markTarget, scoreInWords, showHistory, showResult } from "./result.js";
import { showCode } from "./snippets.js";
import { $, api, heatmap, page } from "./state.js";
import { copy } from "./surface.js";

const OF_MAPS = ["view", "smooth-field", "box-field", "save"];
const OF_ANSWERS = [...OF_MAPS, "result", "earlier", "code", "legend", "outline", "region", "link"];

export function show(entry, target) {
  page.image.current = entry;
  page.pinned = entry.known.has(target) ? target : "answer";
  showResult(entry);
  showHistory(page.image.entries, entry, showAgain);
  pin(page.pinned);
  choose(entry, page.model);
  $("code").hidden = false;
  for (const id of OF_MAPS) $(id).hidden = entry.known.size === 0;
  $("link").hidden = false;
  showCode({ ...entry.asked, base: new URL(".", location.href).href, name: page.image.name, key: api.key });
}

export function showAgain(entry) {
  $("question").value = entry.asked.question;
  $("error").hidden = true;
  warn();
  show(entry, "answer");
}

// The image alone.
export function unshow() {
  heatmap.clear();
  for (const id of OF_ANSWERS) $(id).hidden = true;
}

// What was asked last has no answer: the one before is listed, and no longer stands where an answer does.
export function stepBack() {
  page.image.current = null;
  unshow();
  $("where").textContent = "";
  history.replaceState(null, "", location.pathname + location.search);
  showHistory(page.image.entries, null, showAgain);
}

// Show a target's map, and keep it.
export function pin(target) {
  page.pinned = target;
  showTarget(target);
  writeLink(page.image, page.image.current.asked, target);
}

// Whether a target's map is where a text stands that was read, which is no attention.
const wasRead = (result, target) => result.score_over === "text" && target === "answer";

export function showTarget(target) {
  const entry = page.image?.current;
  if (!entry) return;
  const { attention, image: size } = entry.response;
  const shown = entry.known.get(target);
  markTarget(target, page.pinned);
  const strength = shown ? maps.strengthOf(shown.map, attention, entry.result) : 1;
  heatmap.show(shown?.map ?? null, attention, size, strength);
  const somewhere = shown && maps.strongest(shown.map) > 0;
  $("legend").hidden = !somewhere;
  showOutline(target);
  if (!somewhere) {
    $("where").textContent = t(shown ? "nowhere" : "noMap");
    return;
  }
  const off = maps.offImage(shown.map, attention);
  const sentence = { text: quoted(shown.text), place: place(maps.place(shown.map, attention, size)), share: percent(off) };
  const told = wasRead(entry.result, target) ? "stands" : strength < 1 ? `off_${attention.kind}` : target === "answer" ? "read" : "where";
  $("where").textContent = t(told, sentence);
  $("elsewhere").textContent = off >= 0.005 ? t("elsewhere", { share: percent(off) }) : "";
}

// A line around the strongest region of a target's map, where light alone does not tell, since a bright part of a photograph
// outshines it; and the box, on request. None where most of the map is off the image.
function showOutline(target) {
  const { response: { attention, image }, result, known } = page.image.current;
  const map = known.get(target)?.map;
  const drawn = map && maps.strongest(map) > 0 && maps.strengthOf(map, attention, result) === 1;
  const { colours, opacity } = heatmap.view;
  $("outline").hidden = $("outlined").hidden = !drawn || colours !== "spotlight" || opacity === 0;
  $("region").hidden = !drawn || !$("box").checked;
  if (!drawn) return;
  const { path, box: { left, top, right, bottom } } = outline(map, attention, image);
  $("outline").firstElementChild.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  for (const each of $("outline").querySelectorAll("path")) each.setAttribute("d", path);
  Object.assign($("region").style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
}

// Draw again, after how it is drawn was changed.
export function redraw() {
  heatmap.redraw();
  if (page.image?.current) showOutline(page.pinned);
}

export async function savePicture() {
  const { result, response, known } = page.image.current;
  const shown = known.get(page.pinned);
  const { path, box } = shown && maps.strongest(shown.map) > 0 ? outline(shown.map, response.attention, response.image) : {};
  const read = wasRead(result, page.pinned);
  const blob = await savedPicture({
    image: $("image"),
    overlay: $("overlay"),
    outline: $("outline").hidden ? null : { path, width: response.image.width },
    box: $("region").hidden ? null : box,
    question: result.question,
    answer: inWords(result),
    notes: [scoreInWords(result), $("where").textContent, t(read ? "madeByReading" : "madeBy", { model: response.model.id, kind: t(`kind_${response.attention.kind}`) })],
    scale: shown ? { canvas: $("scale"), less: t("less"), more: t("more") } : null,
  });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "crosslook.png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const copyLink = () => copy($("link"), location.href, page.image.example ? "copied" : "copiedQuestion");
