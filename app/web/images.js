// The images of a visit: opened, sent, shown, gone back to, and left.
import { newSession } from "./api.js";
import { questionsAbout } from "./examples.js";
import { focusOn } from "./focus.js";
import { language, percent, t } from "./i18n.js";
import { isOfImage, showAsked, showError, showRefused, warn } from "./notices.js";
import { lighter } from "./photo.js";
import { isUnsent, showGallery, showHistory } from "./result.js";
import { show, showAgain, unshow } from "./showing.js";
import { $, api, heatmap, page } from "./state.js";

// Open files, and show the last of them; `example`: its name where it is one of the server's own.
export function openImages(files, example = null) {
  const opened = [...files].map((file) => (
    { file, example, name: file.name || "image.png", url: URL.createObjectURL(file), session: newSession(), entries: [], current: null }));
  page.images.push(...opened);
  opened.forEach(upload);
  showImage(opened.at(-1));
}

// `typing`: the question in the field stays.
export function showImage(which, typing = false) {
  if (which !== page.image) page.asking?.abort();
  page.image = which;
  $("drop").hidden = $("error").hidden = true;
  $("viewer").hidden = $("tools").hidden = false;
  $("image").src = which.url;
  $("image").alt = t("imageAlt", { name: which.name });
  unshow();
  showSuggestions();
  showAsked();
  document.body.classList.add("loaded");
  document.querySelector(".skip").href = "#question";
  retellGallery();
  showProgress(which);
  if (which.current) return typing ? show(which.current, "answer") : showAgain(which.current);
  showHistory(which.entries, null, showAgain);
  warn();
}

export const retellGallery = () => showGallery(page.images, page.image, { choose: (which) => showImage(which), cannotShow: render });

// In the interface's language where the model reads that.
export const suggested = () => questionsAbout(page.image.example, language === "zh" && Boolean(page.model?.languages?.includes("zh")));

export function showSuggestions() {
  $("suggestions").hidden = false;
  $("suggestions").replaceChildren(...suggested().map(({ text, lang, failure }) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text, lang });
    chip.dataset.question = text;
    if (failure) chip.append(Object.assign(document.createElement("small"), { textContent: t("failure"), lang: document.documentElement.lang }));
    return chip;
  }));
}

// Back to where an image is chosen; those of this visit stay within reach.
export function leaveImage() {
  page.asking?.abort();
  page.image = null;
  heatmap.clear();
  for (const id of ["viewer", "tools", "progress", "error"]) $(id).hidden = true;
  $("drop").hidden = false;
  showAsked();
  document.body.classList.remove("loaded");
  document.querySelector(".skip").href = "#choose";
  history.replaceState(null, "", location.pathname + location.search);
  retellGallery();
  $("choose").focus();
}

// The server encodes the image while the question is typed.
export function upload(which) {
  which.stop = new AbortController();
  which.sent = 0;
  const told = (state) => {
    const before = isUnsent(which);
    which.state = state;
    if (which === page.image) showProgress(which);
    if (isUnsent(which) !== before) retellGallery();
  };
  const progress = (share) => { which.sent = share; told(share < 1 ? "sending" : "preparing"); };
  which.small ??= lighter(which.file);
  which.ref = which.small.then((file) => api.upload(file, { session: which.session, signal: which.stop.signal, progress }));
  which.ref.then(() => told("ready"), (error) => {
    if (isOfImage(error)) return refuse(which, error);
    told(error.name === "AbortError" ? "stopped" : "failed");
    if (error.name !== "AbortError" && which === page.image) showError(error, which);
  });
  told("preparing");
}

export function showProgress(image) {
  const { state, sent, current } = image;
  const unsent = isUnsent(image);
  const held = $("progress").contains(document.activeElement) ? document.activeElement : null; // not so once it is hidden
  $("progress").hidden = state !== "sending" && !unsent;
  $("sent").hidden = $("cancel").hidden = state !== "sending";
  $("retry").hidden = !unsent;
  $("sent").value = sent;
  $("progress-text").textContent = unsent ? t("stopped") : t("sending", { share: percent(sent) });
  if (held) focusOn(held, $("retry"));
  if (!current) $("where").textContent = { preparing: t("preparing"), ready: t("ready") }[state] ?? "";
}

// Nothing can be asked about this file: it goes, and is named with why.
function refuse(which, error) {
  if (!page.images.includes(which)) return; // said already
  page.images = page.images.filter((each) => each !== which);
  page.refused = [...page.refused.filter(({ name }) => name !== which.name), { name: which.name, file: which.file, error }];
  URL.revokeObjectURL(which.url);
  if (which !== page.image) retellGallery();
  else if (page.images.length) showImage(page.images.at(-1), true);
  else leaveImage();
  showRefused();
}

// A format that this browser does not show: the server makes a PNG of it, once.
export async function render(which) {
  if (which.rendered) return;
  which.rendered = true;
  try {
    const blob = await api.render(which.file, { session: which.session });
    URL.revokeObjectURL(which.url);
    which.url = URL.createObjectURL(blob);
    if (which === page.image) $("image").src = which.url;
    retellGallery();
  } catch (error) {
    if (isOfImage(error)) return refuse(which, error); // it cannot be asked about either
    which.rendered = false;
    if (which === page.image) showError(error.code ? error : { key: "cannotShow" }, which);
  }
}
