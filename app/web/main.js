// Puts the page's parts together.
import { askAgain, ask, remake } from "./asking.js";
import { COLOURS } from "./colormaps.js";
import { loadKinds } from "./doubt.js";
import { exampleFile, isExample, listExamples } from "./examples.js";
import { focusOn } from "./focus.js";
import { t } from "./i18n.js";
import { leaveImage, openImages, render, retellGallery, showImage, showProgress, showSuggestions, suggested, upload } from "./images.js";
import { readLink } from "./link.js";
import { listen } from "./listen.js";
import { retellError, showAsked, showError, showRefused, warn } from "./notices.js";
import { drawScale, showOptions } from "./options.js";
import { showHistory } from "./result.js";
import { copyLink, pin, redraw, savePicture, show, showAgain, showTarget } from "./showing.js";
import { $, api, heatmap, page } from "./state.js";
import { stored } from "./store.js";
import { copy, dress, speak } from "./surface.js";

function open(files, example = null) {
  if (!files.length) return;
  openImages(files, example);
  if (example) $("question").value = suggested()[0].text;
  warn();
  if (page.waiting && !example) askAgain(page.waiting);
  else if (matchMedia("(pointer: fine)").matches) $("question").focus();
}

async function openExample(name) {
  if (!isExample(name)) return;
  const before = page.images.find((which) => which.example === name);
  if (before) {
    showImage(before);
    return focusOn();
  }
  try {
    open([await exampleFile(name)], name);
  } catch {
    showError({ code: "offline", key: "offline" });
  }
}

async function followLink() {
  const found = readLink();
  if (!found) return;
  if (isExample(found.example)) {
    await openExample(found.example);
    if (page.image?.example === found.example) askAgain(found); // else it could not be fetched
  } else {
    page.waiting = found;
    showAsked();
  }
}

async function loadModel() {
  try {
    [page.model] = await Promise.all([api.model(), loadKinds()]);
    showOptions(heatmap.view, page.model);
    warn();
  } catch (error) {
    showError(error);
  }
}

// Everything in the interface's language.
function retell() {
  const { image } = page;
  speak();
  showOptions(heatmap.view, page.model);
  for (const picture of document.querySelectorAll("#examples button")) picture.querySelector("img").alt = t(`example_${picture.dataset.name}`);
  warn();
  retellError();
  retellGallery();
  showRefused();
  showAsked();
  if (!image) return;
  $("image").alt = t("imageAlt", { name: image.name });
  showSuggestions();
  showProgress(image);
  image.current ? show(image.current, page.pinned) : showHistory(image.entries, null, showAgain);
}

heatmap.view.colours = stored("colours") in COLOURS ? stored("colours") : "spotlight";
listExamples($("examples"), openExample);
listen({
  ask, copy, copyLink, dress, followLink, leaveImage, open, pin, redraw, remake, retell, savePicture, showTarget, warn,
  pinned: () => page.pinned,
  view: heatmap.view,
  cannotShow: () => { if (page.image) render(page.image); },
  stop: () => page.image?.stop.abort(),
  retry: () => { $("error").hidden = true; if (page.image) upload(page.image); },
  useKey: (key) => {
    api.key = key;
    $("key-form").hidden = $("error").hidden = true;
    focusOn();
    loadModel();
    if (page.image) upload(page.image);
  },
});
retell();
drawScale(heatmap.view);
loadModel().then(followLink);
