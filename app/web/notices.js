// What is said beside images and answers: errors, and while a question is typed what the model is bad at.
import { weakness } from "./doubt.js";
import { refill } from "./focus.js";
import { advice, languageNames, percent, quoted, t, wordsFor } from "./i18n.js";
import { isHeic } from "./photo.js";
import { $, page } from "./state.js";

let told = null; // writes the last error, in the language of now

const OF_IMAGES = new Set(["unsupported_image", "image_broken", "image_too_small", "image_too_large"]); // error codes

export const isOfImage = (error) => OF_IMAGES.has(error.code);

// An error in words, with what to do: of the API, or the page's own, which has its text's `key`. Of HEIC, which not every
// server reads, with more of that.
function inWords(error, file) {
  if (file && isHeic(file) && (isOfImage(error) || !error.code)) return t("heic");
  if (file?.type && !file.type.startsWith("image/") && isOfImage(error)) return t("cannotShow");
  const id = error.requestId && error.status >= 500 ? ` (${t("requestId", { id: error.requestId })})` : "";
  return [(error.key ? t(error.key) : wordsFor(error)) + id, advice(error)].filter(Boolean).join(" ");
}

// `of`: the image that it is about.
export function showError(error, of = null) {
  told = () => { $("error").textContent = of ? t("ofFile", { name: of.name, error: inWords(error, of.file) }) : inWords(error); };
  told();
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" }); // on a small screen it is far below the question
  if (!page.image?.current) $("where").textContent = "";
  if (error.code === "invalid_api_key") {
    $("key-form").hidden = false;
    $("key").focus();
  }
}

export const retellError = () => told?.();

// The files that nothing can be asked about, each with why, until it is removed or a question answered.
export function showRefused() {
  refill($("refused"), page.refused.map((each) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "×", of: each });
    button.setAttribute("aria-label", t("remove", { name: each.name }));
    button.addEventListener("click", () => {
      page.refused = page.refused.filter((other) => other !== each);
      showRefused();
    });
    const text = document.createElement("p");
    text.append(Object.assign(document.createElement("strong"), { textContent: each.name }), ` ${inWords(each.error, each.file)}`);
    item.append(text, button);
    return item;
  }), !page.refused.length);
}

// What a link asks, until its image is chosen.
export function showAsked() {
  const { waiting } = page;
  $("asked").hidden = !waiting;
  if (waiting) $("asked").textContent = t("askedOf", { question: quoted(waiting.asked.question), name: waiting.file ?? "?" });
}

// Beside the question field, while one is typed: what the model is bad at, and which languages it reads.
export function warn() {
  const { model } = page;
  const weak = weakness(model, $("question").value);
  $("caution").hidden = !weak;
  if (weak) $("caution-text").textContent = t("weak", { what: t(`weak_${weak.kind.replace(/[/ ]/, "_")}`), share: percent(weak.share) });
  $("card").hidden = model?.id !== "compact";
  $("languages").hidden = !model;
  if (model) $("languages").textContent = t("reads", { languages: languageNames(model.languages ?? ["en"]) });
}
