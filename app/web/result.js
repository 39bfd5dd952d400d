// Shows one answer: the question's words as buttons, the answer, the runners-up. Says which map to show.
import { doubt, readNothing } from "./doubt.js";
import { refill } from "./focus.js";
import * as maps from "./maps.js";
import { listed, percent, quoted, t } from "./i18n.js";

// Whether an image was not sent, which can be tried again.
export const isUnsent = ({ state }) => ["stopped", "failed"].includes(state);

const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// Every map of a response that the page can show, by target: "answer", "q0", "q1" .. (question), "a0" .. (answer).
export function targets(result) {
  const found = new Map();
  const put = (key, text, map) => { if (map) found.set(key, { text, map }); };
  put("answer", result.answer, maps.decode(result.answer_map));
  result.question_words.forEach((word, index) => put(`q${index}`, word.text, maps.ofWord(word, result.question_tokens)));
  result.answer_words.forEach((word, index) => put(`a${index}`, word.text, maps.ofWord(word, result.answer_tokens)));
  return found;
}

// A text with its words as buttons and what stands between them as text.
function sentence(text, words, prefix, known) {
  const characters = Array.from(text); // spans count code points
  const nodes = [];
  let at = 0;
  words.forEach((word, index) => {
    const [start, end] = word.span;
    if (start > at) nodes.push(characters.slice(at, start).join(""));
    const label = characters.slice(start, end).join("");
    const key = `${prefix}${index}`;
    const joined = start === at && index > 0 ? " joined" : ""; // as in Chinese
    nodes.push(known.has(key) ? element("button", { type: "button", className: `word${joined}`, textContent: label }) : label);
    if (known.has(key)) nodes.at(-1).dataset.target = key;
    at = end;
  });
  if (at < characters.length) nodes.push(characters.slice(at).join(""));
  return nodes;
}

function bar(label, score, best) {
  const fill = element("span", { className: "fill" });
  fill.style.setProperty("--share", Math.min(1, score));
  return element("li", { className: best ? "best" : "" },
    element("span", { className: "label", textContent: label }),
    element("span", { className: "track" }, fill),
    element("span", { className: "value", textContent: percent(score) }));
}

// The answer in a line: "cat", or "Not sure: 2, or 3".
export function inWords(result) {
  const { unsure, instead } = doubt(result);
  return unsure ? t("notSureLine", { answers: listed([result.answer, ...instead]) }) : result.answer;
}

export const scoreInWords = (result) => t(`over_${result.score_over}`, { share: percent(result.score) });

export function showResult(entry) {
  const { result, response, known } = entry;
  $("words").replaceChildren(...sentence(result.question, result.question_words, "q", known));
  if (!result.question_words.length) $("words").textContent = result.question;
  const { unsure, instead } = doubt(result);
  const nothing = readNothing(result);
  const answer = known.has("answer")
    ? element("button", { type: "button", className: "word answer", textContent: result.answer })
    : element("strong", { className: "answer", textContent: result.answer });
  if (known.has("answer")) answer.dataset.target = "answer";
  $("answer-line").replaceChildren(
    ...(unsure ? [element("span", { className: "unsure", textContent: t("notSure") })] : []),
    answer,
    ...(instead.length ? [element("span", { className: "instead", textContent: t("or", { answers: listed(instead.map(quoted)) }) })] : []),
    ...(nothing ? [] : [element("span", { className: "score", textContent: scoreInWords(result) })]));
  $("result").classList.toggle("doubted", unsure);
  const measured = nothing ? null : result.reliability;
  $("measured").hidden = !measured;
  if (measured) $("measured").textContent = t("measured", { share: percent(measured.right), count: measured.count });
  $("answer-words").hidden = result.answer_words.length < 2;
  $("answer-words").replaceChildren(...sentence(result.answer, result.answer_words, "a", known));
  const rows = result.ranking.map(({ answer: text, score }, index) => bar(text, score, index === 0));
  if (result.rest !== null && result.rest >= 0.0005) {
    rows.push(bar(t("others"), result.rest, false));
    rows.at(-1).classList.add("rest");
  }
  $("ranking").hidden = nothing || rows.length < 2;
  $("ranking").replaceChildren(...rows);
  const unknown = result.ranking.filter((row) => row.in_vocabulary === false).map((row) => row.answer);
  $("unknown").hidden = !unknown.length;
  $("unknown").textContent = t("unknown", { answers: unknown.join(", ") });
  $("pointer").hidden = known.size === 0;
  $("meta").textContent = t("meta", { model: response.model.id, time: Math.round(entry.time) });
  $("result").hidden = false;
}

export function markTarget(target, pinned) {
  for (const button of document.querySelectorAll("#result [data-target]")) {
    button.classList.toggle("shown", button.dataset.target === target);
    button.setAttribute("aria-pressed", String(button.dataset.target === pinned));
  }
}

// `current`: the one that is shown above, or null.
export function showHistory(entries, current, choose) {
  refill($("history"), entries.map((entry) => {
    const button = element("button", { type: "button", of: entry },
      element("span", { textContent: entry.result.question }), element("strong", { textContent: inWords(entry.result) }));
    button.setAttribute("aria-current", String(entry === current));
    button.addEventListener("click", () => choose(entry));
    return element("li", {}, button);
  }).reverse(), entries.length < (current ? 2 : 1), $("earlier"));
}

// The images of this visit, to go back to with choose(image); none where the only one is shown (`current`). Those that the
// browser does not show are given to cannotShow(image).
export function showGallery(images, current, { choose, cannotShow }) {
  refill($("gallery"), images.map((image) => {
    const unsent = isUnsent(image);
    const picture = element("img", { src: image.url, alt: t(unsent ? "goToUnsent" : "goTo", { name: image.name }) });
    picture.addEventListener("error", () => cannotShow(image));
    const button = element("button", { type: "button", of: image, title: image.name, className: unsent ? "unsent" : "" }, picture);
    button.setAttribute("aria-current", String(image === current));
    button.addEventListener("click", () => choose(image));
    return element("li", {}, button);
  }), images.length < (current ? 2 : 1));
}
