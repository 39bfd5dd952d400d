// The page's state and what happens on it.
import { Api, newSession } from "./api.js";
import { COLOURS } from "./colormaps.js";
import { listExamples } from "./examples.js";
import { Heatmap } from "./heatmap.js";
import { figure, language, percent, place, quoted, setLanguage, t, wordsFor } from "./i18n.js";
import * as maps from "./maps.js";
import { choose, chosenKind, chosenLayers, drawScale, showOptions } from "./options.js";
import { markTarget, showHistory, showResult, targets } from "./result.js";
import * as snippets from "./snippets.js";
import { store, stored } from "./store.js";

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 56rem)"); // as in style.css: one column
const api = new Api();
const heatmap = new Heatmap($("overlay"));
let model = null; // the server's description of it
let image = null; // {file, name, url, ref: promise of what the server calls it}
let entries = []; // what was asked about this image
let current = null; // the entry that is shown
let pinned = "answer"; // the target whose map stays when nothing is pointed at
let asking = null; // AbortController of the request under way

// --- the image ---

function openImage(file, suggestions = []) {
  if (!file) return;
  asking?.abort();
  if (image) URL.revokeObjectURL(image.url);
  image = { file, name: file.name || "image.png", url: URL.createObjectURL(file), session: newSession() };
  entries = [];
  current = null;
  heatmap.clear();
  $("drop").hidden = true;
  $("viewer").hidden = $("tools").hidden = false;
  $("image").src = image.url;
  $("image").alt = t("imageAlt", { name: image.name });
  $("where").textContent = t("preparing");
  for (const id of ["result", "earlier", "code", "legend", "view", "smooth-field", "save", "error"]) $(id).hidden = true;
  $("suggestions").hidden = !suggestions.length;
  $("suggestions").replaceChildren(...suggestions.map((text) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text, lang: "en" });
    chip.addEventListener("click", () => { $("question").value = text; ask(); });
    return chip;
  }));
  if (suggestions.length) [$("question").value] = suggestions;
  document.body.classList.add("loaded");
  upload(image);
  if (matchMedia("(pointer: fine)").matches) $("question").focus();
}

// The server encodes the image while the question is typed.
function upload(which) {
  which.ref = api.upload(which.file, which.session);
  which.ref.then(
    () => { if (which === image && !current) $("where").textContent = t("ready"); },
    (error) => { if (which === image) showError(error); });
  return which.ref;
}

function closeImage() {
  $("file").value = $("shot").value = "";
  $("file").click();
}

// --- asking ---

function candidates() {
  const given = $("candidates").value.split(/[,，、]/).map((text) => text.trim()).filter(Boolean);
  return given.length ? given : null;
}

async function ask() {
  const question = $("question").value;
  if (!image) return showError({ message: t("needImage") });
  if (!question.trim()) return showError({ message: t("needQuestion") });
  const entry = await request({ question, candidates: candidates(), kind: chosenKind(model), layers: chosenLayers(model) });
  if (!entry) return;
  entries.push(entry);
  show(entry, "answer");
  if (narrow.matches) $("result").scrollIntoView();
  $("status").textContent = t("answered", { answer: entry.result.answer, share: percent(entry.result.score) });
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
  try {
    const ref = await which.ref.catch(() => upload(which)); // what failed a while ago may work now
    return await api.answer({ image_id: ref.id, ...fields }, signal, which.session);
  } catch (error) {
    if (error.code !== "image_not_found") throw error;
    return api.answer({ image: which.file, ...fields }, signal, which.session); // the server no longer has it: send it along
  }
}

function busy(on) {
  $("send").textContent = t(on ? "asking" : "ask");
  $("result").setAttribute("aria-busy", String(on));
  document.body.classList.toggle("busy", on);
}

function showError(error) {
  const id = error.requestId ? ` (${t("requestId", { id: error.requestId })})` : "";
  $("error").textContent = wordsFor(error) + (error.status >= 500 ? id : "");
  $("error").hidden = false;
  if (!current) $("where").textContent = "";
  if (error.code === "invalid_api_key") {
    $("key-form").hidden = false;
    $("key").focus();
  }
}

// --- showing ---

function show(entry, target) {
  current = entry;
  pinned = entry.known.has(target) ? target : "answer";
  showResult(entry);
  showHistory(entries, current, (chosen) => show(chosen, "answer"));
  showTarget(pinned);
  choose(entry, model);
  const base = new URL(".", location.href).href;
  const code = { ...entry.asked, base, name: image.name, key: api.key };
  $("curl").textContent = snippets.curl(code);
  $("python").textContent = snippets.python(code);
  $("code").hidden = false;
  for (const id of ["view", "smooth-field", "save"]) $(id).hidden = entry.known.size === 0;
}

function showTarget(target) {
  if (!current) return;
  const { attention, image: size } = current.response;
  const shown = current.known.get(target);
  markTarget(target, pinned);
  heatmap.show(shown?.map ?? null, attention, size);
  $("legend").hidden = !shown;
  if (!shown) {
    $("where").textContent = t("noMap");
    return;
  }
  const sentence = { text: quoted(shown.text), place: place(maps.place(shown.map, attention, size)) };
  $("where").textContent = t(target === "answer" ? "read" : "where", sentence);
  // Only raw and rollout maps are made of shares, of which some may have gone to keys that are no place.
  const shares = ["raw", "rollout"].includes(attention.kind);
  $("strongest").textContent = t("cell", { strength: (shares ? percent : figure)(maps.strongest(shown.map)) });
  $("elsewhere").textContent = shares && shown.map.elsewhere >= 0.005 ? t("elsewhere", { share: percent(shown.map.elsewhere) }) : "";
}

// Another layer or kind: the same question again, its maps made so.
async function remake() {
  if (!current) return;
  const before = current;
  const target = pinned;
  const entry = await request({ ...before.asked, kind: chosenKind(model), layers: chosenLayers(model) });
  if (!entry || current !== before) return;
  entries = entries.map((old) => (old === before ? entry : old));
  show(entry, target);
}

// What is seen, as a file.
async function savePicture() {
  const blob = await heatmap.picture($("image"));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "crosslook.png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- the server's model ---

async function loadModel() {
  try {
    model = await api.model();
    showOptions(heatmap.view, model);
  } catch (error) {
    showError(error);
  }
}

// --- events ---

function listen() {
  $("choose").addEventListener("click", () => $("file").click());
  $("camera").addEventListener("click", () => $("shot").click());
  $("change").addEventListener("click", closeImage);
  for (const input of [$("file"), $("shot")]) input.addEventListener("change", () => openImage(input.files[0]));
  $("image").addEventListener("load", () => {
    document.body.style.setProperty("--ratio", $("image").naturalWidth / $("image").naturalHeight);
  });
  $("image").addEventListener("error", () => showError({ message: t("cannotShow") }));
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.key = $("key").value.trim();
    $("key-form").hidden = $("error").hidden = true;
    loadModel();
    if (image) upload(image);
  });

  addEventListener("paste", (event) => openImage([...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"))));
  for (const name of ["dragover", "dragleave", "drop"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", name === "dragover");
      if (name === "drop") openImage(event.dataTransfer.files[0]);
    });
  }

  const result = $("result");
  const targetOf = (event) => event.target.closest?.("[data-target]")?.dataset.target;
  for (const name of ["pointerover", "focusin"]) {
    result.addEventListener(name, (event) => { if (targetOf(event)) showTarget(targetOf(event)); });
  }
  for (const name of ["pointerout", "focusout"]) {
    result.addEventListener(name, (event) => { if (targetOf(event)) showTarget(pinned); });
  }
  result.addEventListener("click", (event) => {
    if (!targetOf(event)) return;
    pinned = targetOf(event);
    showTarget(pinned);
  });
  result.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      pinned = "answer";
      showTarget(pinned);
    }
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !targetOf(event)) return;
    event.preventDefault();
    const buttons = [...result.querySelectorAll("[data-target]")];
    buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length].focus();
  });

  $("opacity").addEventListener("input", () => { heatmap.view.opacity = $("opacity").value / 100; heatmap.redraw(); });
  $("smooth").addEventListener("change", () => { heatmap.view.smooth = $("smooth").checked; heatmap.redraw(); });
  $("colours").addEventListener("change", () => {
    heatmap.view.colours = $("colours").value;
    store("colours", heatmap.view.colours);
    heatmap.redraw();
    drawScale(heatmap.view);
  });
  for (const id of ["layer", "kind"]) $(id).addEventListener("change", remake);
  $("save").addEventListener("click", savePicture);
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
  $("language").addEventListener("click", () => { store("language", language === "zh" ? "en" : "zh"); speak(); });
  $("theme").addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[document.documentElement.dataset.theme ?? "auto"];
    store("theme", next);
    dress(next);
  });
}

async function copy(button) {
  const code = $(button.dataset.for);
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // no secure context: select it, so that Ctrl+C does it
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = t("copied");
  setTimeout(() => { button.textContent = t("copy"); }, 1500);
}

function dress(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").title = t(`theme_${theme}`);
  $("theme").setAttribute("aria-label", t(`theme_${theme}`));
}

function speak() {
  const preferred = navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en";
  setLanguage(stored("language") ?? preferred);
  const button = $("language");
  Object.assign(button, language === "zh" ? { textContent: "English", lang: "en" } : { textContent: "中文", lang: "zh" });
  button.setAttribute("aria-label", language === "zh" ? "Switch to English" : "切换到中文");
  dress(stored("theme") ?? "auto");
  showOptions(heatmap.view, model);
  for (const picture of document.querySelectorAll("#examples button")) picture.querySelector("img").alt = t(picture.dataset.name);
  if (image) $("image").alt = t("imageAlt", { name: image.name });
  $("error").hidden = true;
  if (current) show(current, pinned);
}

heatmap.view.colours = COLOURS[stored("colours")] ? stored("colours") : "viridis";
listExamples($("examples"), openImage);
listen();
speak();
drawScale(heatmap.view);
loadModel();
