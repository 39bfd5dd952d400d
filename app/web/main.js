// The page's state and what happens on it.
import { Api, newSession } from "./api.js";
import { COLOURS } from "./colormaps.js";
import { loadKinds, questionKind, weakness } from "./doubt.js";
import { exampleFile, isExample, listExamples, questionsAbout } from "./examples.js";
import { Heatmap } from "./heatmap.js";
import { advice, language, languageNames, percent, place, quoted, t, wordsFor } from "./i18n.js";
import { readLink, writeLink } from "./link.js";
import { listen, measureViewer } from "./listen.js";
import * as maps from "./maps.js";
import { choose, chosenKind, chosenLayers, drawScale, showOptions } from "./options.js";
import { isHeic, lighter } from "./photo.js";
import { savedPicture } from "./picture.js";
import { inWords, markTarget, scoreInWords, showGallery, showHistory, showResult, targets } from "./result.js";
import { showCode } from "./snippets.js";
import { stored } from "./store.js";
import { copy, dress, speak } from "./surface.js";

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 56rem)"); // as in style.css: one column
const OF_IMAGES = new Set(["unsupported_image", "image_broken", "image_too_small", "image_too_large"]); // error codes
const api = new Api();
const heatmap = new Heatmap($("overlay"));
let model = null; // the server's description of it
let images = []; // of this visit
let image = null; // the one shown: {file, name, url, example, session, suggestions, ref: promise of what the server calls it,
// stop: AbortController of its upload, entries: what was asked about it, current: the entry shown}
let pinned = "answer"; // the target whose map stays when nothing is pointed at
let asking = null; // AbortController of the request under way
let waiting = null; // what a link asks, until its image is chosen

// --- images ---

function openImage(file, example = null) {
  if (!file) return;
  const opened = { file, example, name: file.name || "image.png", url: URL.createObjectURL(file), session: newSession(), entries: [], current: null };
  images.push(opened);
  upload(opened);
  showImage(opened);
  if (example) $("question").value = suggested()[0].text;
  warn();
  if (waiting && !example) {
    $("question").value = waiting.asked.question;
    askAgain(waiting);
  } else if (matchMedia("(pointer: fine)").matches) $("question").focus();
}

async function openExample(name) {
  if (!isExample(name)) return;
  const before = images.find((which) => which.example === name);
  if (before) return showImage(before);
  try {
    openImage(await exampleFile(name), name);
  } catch {
    showError({ code: "offline", message: t("offline") });
  }
}

function showImage(which) {
  if (which !== image) asking?.abort();
  image = which;
  heatmap.clear();
  $("drop").hidden = true;
  $("viewer").hidden = $("tools").hidden = false;
  $("image").src = image.url;
  $("image").alt = t("imageAlt", { name: image.name });
  for (const id of ["result", "earlier", "code", "legend", "region", "view", "smooth-field", "box-field", "save", "link", "error", "asked"]) $(id).hidden = true;
  showSuggestions();
  document.body.classList.add("loaded");
  document.querySelector(".skip").href = "#question";
  showGallery(images, image, showImage);
  showProgress(image);
  image.current ? showAgain(image.current) : warn();
}

// In the interface's language where the model reads that.
const suggested = () => questionsAbout(image.example, language === "zh" && Boolean(model?.languages?.includes("zh")));

function showSuggestions() {
  $("suggestions").hidden = false;
  $("suggestions").replaceChildren(...suggested().map(({ text, lang, failure }) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text, lang });
    if (failure) chip.append(Object.assign(document.createElement("small"), { textContent: ` (${t("failure")})`, lang: document.documentElement.lang }));
    chip.addEventListener("click", () => { $("question").value = text; ask(); });
    return chip;
  }));
}

// Back to where an image is chosen; those of this visit stay within reach.
function leaveImage() {
  asking?.abort();
  image = null;
  heatmap.clear();
  for (const id of ["viewer", "tools", "progress", "error"]) $(id).hidden = true;
  $("drop").hidden = false;
  document.body.classList.remove("loaded");
  document.querySelector(".skip").href = "#choose";
  history.replaceState(null, "", location.pathname + location.search);
  showGallery(images, null, showImage);
  $("choose").focus();
}

// The server encodes the image while the question is typed.
function upload(which) {
  which.stop = new AbortController();
  which.sent = 0;
  which.state = "preparing";
  const told = (state) => { which.state = state; if (which === image) showProgress(which); };
  const progress = (share) => { which.sent = share; told(share < 1 ? "sending" : "preparing"); };
  which.small ??= lighter(which.file);
  which.ref = which.small.then((file) => api.upload(file, { session: which.session, signal: which.stop.signal, progress }));
  which.ref.then(() => told("ready"), (error) => {
    told(error.name === "AbortError" ? "stopped" : OF_IMAGES.has(error.code) ? "refused" : "failed");
    if (error.name !== "AbortError" && which === image) showError(imageError(which, error));
  });
  told("preparing");
  return which.ref;
}

function showProgress({ state, sent, current }) {
  const unsent = ["stopped", "failed"].includes(state);
  $("progress").hidden = state !== "sending" && !unsent;
  $("sent").hidden = $("cancel").hidden = state !== "sending";
  $("retry").hidden = !unsent;
  $("sent").value = sent;
  $("progress-text").textContent = unsent ? t("stopped") : t("sending", { share: percent(sent) });
  if (!current) $("where").textContent = { preparing: t("preparing"), ready: t("ready") }[state] ?? "";
}

// A format that this browser does not show: the server makes a PNG of it, once.
async function renderImage(which) {
  if (which.rendered) return;
  which.rendered = true;
  try {
    const blob = await api.render(which.file, { session: which.session });
    URL.revokeObjectURL(which.url);
    which.url = URL.createObjectURL(blob);
    if (which === image) showImage(which);
  } catch (error) {
    if (which !== image) return;
    if (OF_IMAGES.has(error.code)) { // it cannot be asked about either
      images = images.filter((each) => each !== which);
      leaveImage();
    }
    showError(imageError(which, error.code ? error : { message: t("cannotShow") }));
  }
}

// An error of an image; of HEIC, which not every server reads, with what to do.
function imageError({ file }, error) {
  return isHeic(file) && (OF_IMAGES.has(error.code) || !error.code) ? { message: t("heic") } : error;
}

// --- asking ---

function candidates() {
  const given = $("candidates").value.split(/[,，、]/).map((text) => text.trim()).filter(Boolean);
  return given.length ? given : null;
}

async function ask() {
  $("error").hidden = true;
  warn();
  const question = $("question").value;
  if (!image) return showError({ message: t("needImage") });
  if (!question.trim()) return showError({ message: t("needQuestion") });
  await add({ question, candidates: candidates(), kind: chosenKind(model), layers: chosenLayers(model) }, "answer");
}

async function add(asked, target) {
  const entry = await request(asked);
  if (!entry) return;
  const same = (old) => JSON.stringify(old.asked) === JSON.stringify(asked);
  image.entries = [...image.entries.filter((old) => !same(old)), entry];
  show(entry, target);
  if (document.activeElement === $("question")) {
    if (matchMedia("(pointer: coarse)").matches) $("question").blur(); // its keyboard would cover the answer
    else $("question").select();
  }
  if (narrow.matches) {
    measureViewer();
    $("result").scrollIntoView();
  }
  $("status").textContent = t("answered", { answer: inWords(entry.result), share: percent(entry.result.score) });
}

// One question to the server; null when it failed (and said so) or was overtaken by the next.
async function request(asked) {
  asking?.abort();
  const mine = asking = new AbortController();
  const which = image;
  busy(true);
  const start = performance.now();
  try {
    const response = await answer(which, asked, mine.signal);
    if (mine !== asking || which !== image) return null;
    $("error").hidden = true;
    const [result] = response.results;
    return { asked, response, result, known: targets(result), time: performance.now() - start };
  } catch (error) {
    if (mine === asking && which === image && error.name !== "AbortError") showError(error);
    return null;
  } finally {
    if (mine === asking) busy(false);
  }
}

// The question's part of a request's form.
const fieldsOf = ({ question, candidates, kind, layers }) => ({ question, candidates, map_kind: kind, layers });

async function answer(which, asked, signal) {
  const fields = { ...fieldsOf(asked), maps: model?.map_kinds.length === 0 ? "none" : "u8" };
  const options = { signal, session: which.session };
  if (["stopped", "failed"].includes(which.state)) upload(which); // what failed a while ago may work now
  const ref = await which.ref;
  try {
    return await api.answer({ image_id: ref.id, ...fields }, options);
  } catch (error) {
    if (error.code !== "image_not_found") throw error;
    return api.answer({ image: await which.small, ...fields }, options); // the server no longer has it: send it along
  }
}

function busy(on) {
  // An image's text is read once, when first asked for: that takes seconds.
  $("send").textContent = t(!on ? "ask" : questionKind($("question").value) === "reading" ? "readingText" : "asking");
  $("result").setAttribute("aria-busy", String(on));
  document.body.classList.toggle("busy", on);
}

function showError(error) {
  const id = error.requestId && error.status >= 500 ? ` (${t("requestId", { id: error.requestId })})` : "";
  $("error").textContent = [wordsFor(error) + id, advice(error)].filter(Boolean).join(" ");
  $("error").hidden = false;
  if (!image?.current) $("where").textContent = "";
  if (error.code === "invalid_api_key") {
    $("key-form").hidden = false;
    $("key").focus();
  }
}

// Beside the question field, while one is typed: what the model is bad at, and which languages it reads.
function warn() {
  const weak = weakness(model, $("question").value);
  $("caution").hidden = !weak;
  if (weak) $("caution-text").textContent = t("weak", { what: t(`weak_${weak.kind.replace("/", "_")}`), share: percent(weak.share) });
  $("card").hidden = model?.id !== "compact";
  $("languages").hidden = !model;
  if (model) $("languages").textContent = t("reads", { languages: languageNames(model.languages ?? ["en"]) });
}

// --- showing ---

function show(entry, target) {
  image.current = entry;
  pinned = entry.known.has(target) ? target : "answer";
  showResult(entry);
  showHistory(image.entries, entry, showAgain);
  pin(pinned);
  choose(entry, model);
  $("code").hidden = false;
  for (const id of ["view", "smooth-field", "box-field", "save"]) $(id).hidden = entry.known.size === 0;
  $("link").hidden = false;
  showCode({ ...entry.asked, base: new URL(".", location.href).href, name: image.name, key: api.key });
}

function showAgain(entry) {
  $("question").value = entry.asked.question;
  warn();
  show(entry, "answer");
}

// Show a target's map, and keep it.
function pin(target) {
  pinned = target;
  showTarget(target);
  writeLink(image, image.current.asked, target);
}

function showTarget(target) {
  const entry = image?.current;
  if (!entry) return;
  const { attention, image: size } = entry.response;
  const shown = entry.known.get(target);
  markTarget(target, pinned);
  heatmap.show(shown?.map ?? null, attention, size);
  const somewhere = shown && maps.strongest(shown.map) > 0;
  $("legend").hidden = !somewhere;
  $("region").hidden = !somewhere || !$("box").checked;
  if (!somewhere) {
    $("where").textContent = t(shown ? "nowhere" : "noMap");
    return;
  }
  const sentence = { text: quoted(shown.text), place: place(maps.place(shown.map, attention, size)) };
  $("where").textContent = t(target === "answer" ? "read" : "where", sentence);
  // Only raw and rollout maps are made of shares, of which some may have gone to keys that are no place.
  const shares = ["raw", "rollout"].includes(attention.kind);
  $("elsewhere").textContent = shares && shown.map.elsewhere >= 0.005 ? t("elsewhere", { share: percent(shown.map.elsewhere) }) : "";
  const { left, top, right, bottom } = maps.region(shown.map, attention, size);
  Object.assign($("region").style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
}

// Another layer or kind: the same question again, its maps made so.
async function remake() {
  const before = image?.current;
  if (!before) return;
  const [which, target] = [image, pinned];
  const entry = await request({ ...before.asked, kind: chosenKind(model), layers: chosenLayers(model) });
  if (!entry || which !== image || which.current !== before) return;
  which.entries = which.entries.map((old) => (old === before ? entry : old));
  show(entry, target);
}

async function savePicture() {
  const { result, response, known } = image.current;
  const shown = known.get(pinned);
  const blob = await savedPicture({
    image: $("image"),
    overlay: $("overlay"),
    box: shown && $("box").checked ? maps.region(shown.map, response.attention, response.image) : null,
    question: result.question,
    answer: inWords(result),
    notes: [scoreInWords(result), $("where").textContent, t("madeBy", { model: response.model.id, kind: t(`kind_${response.attention.kind}`) })],
    scale: shown ? { canvas: $("scale"), less: t("less"), more: t("more") } : null,
  });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "crosslook.png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const copyLink = () => copy($("link"), location.href, image.example ? "copied" : "copiedQuestion");

// --- links that ask again, and the server's model ---

// What a link asks, of the image that is shown.
function askAgain({ asked, target }) {
  waiting = null;
  $("question").value = asked.question;
  warn();
  $("candidates").value = (asked.candidates ?? []).join(", ");
  add(asked, target);
}

async function followLink() {
  const found = readLink();
  if (!found) return;
  if (isExample(found.example)) {
    await openExample(found.example);
    if (image) askAgain(found);
  } else {
    waiting = found;
    $("asked").textContent = t("askedOf", { question: quoted(found.asked.question), name: found.file ?? "?" });
    $("asked").hidden = false;
  }
}

async function loadModel() {
  try {
    [model] = await Promise.all([api.model(), loadKinds()]);
    showOptions(heatmap.view, model);
    warn();
  } catch (error) {
    showError(error);
  }
}

function retell() {
  speak();
  showOptions(heatmap.view, model);
  for (const picture of document.querySelectorAll("#examples button")) picture.querySelector("img").alt = t(`example_${picture.dataset.name}`);
  $("error").hidden = true;
  warn();
  showGallery(images, image, showImage);
  if (!image) return;
  $("image").alt = t("imageAlt", { name: image.name });
  showSuggestions();
  showProgress(image);
  if (image.current) show(image.current, pinned);
}

heatmap.view.colours = stored("colours") in COLOURS ? stored("colours") : "spotlight";
listExamples($("examples"), openExample);
listen({
  ask, copy, copyLink, dress, followLink, leaveImage, openImage, pin, remake, retell, savePicture, showTarget, warn,
  pinned: () => pinned,
  view: heatmap.view,
  redraw: () => heatmap.redraw(),
  cannotShow: () => { if (image) renderImage(image); },
  stop: () => image?.stop.abort(),
  retry: () => { $("error").hidden = true; if (image) upload(image); },
  useKey: (key) => {
    api.key = key;
    $("key-form").hidden = $("error").hidden = true;
    loadModel();
    if (image) upload(image);
  },
});
retell();
drawScale(heatmap.view);
loadModel().then(followLink);
