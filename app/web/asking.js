// Questions to the server, and what becomes of them.
import { questionKind } from "./doubt.js";
import { percent, t } from "./i18n.js";
import { upload } from "./images.js";
import { measureViewer } from "./listen.js";
import { showAsked, showError, showRefused, warn } from "./notices.js";
import { choose, chosenKind, chosenLayers } from "./options.js";
import { inWords, isUnsent, targets } from "./result.js";
import { show, stepBack } from "./showing.js";
import { $, api, page } from "./state.js";

const narrow = matchMedia("(max-width: 56rem)"); // as in style.css: one column

function candidates() {
  const given = $("candidates").value.split(/[,，、]/).map((text) => text.trim()).filter(Boolean);
  return given.length ? given : null;
}

export async function ask() {
  $("error").hidden = true;
  warn();
  const question = $("question").value;
  if (!page.image) return showError({ key: "needImage" });
  if (!question.trim()) return showError({ key: "needQuestion" });
  const { model } = page;
  await add({ question, candidates: candidates(), kind: chosenKind(model), layers: chosenLayers(model) }, "answer");
}

// What a link asks, of the image that is shown.
export async function askAgain({ asked, target }) {
  $("question").value = asked.question;
  warn();
  $("candidates").value = (asked.candidates ?? []).join(", ");
  if (asked.candidates) $("candidates").closest("details").open = true; // they hold for what is asked next, too
  const which = page.image;
  $("asked").hidden = true;
  await add(asked, target);
  if (page.images.includes(which)) page.waiting = null; // else it was refused: the link waits for another
  showAsked();
}

// Whether two were asked alike: one of them is listed.
const isSame = (one, other) => JSON.stringify(one.asked) === JSON.stringify(other.asked);

async function add(asked, target) {
  const { refused } = page;
  const entry = await request(asked, stepBack);
  if (!entry) return;
  const { image } = page;
  page.refused = page.refused.filter((each) => !refused.includes(each)); // those were seen
  showRefused();
  image.entries = [...image.entries.filter((old) => !isSame(old, entry)), entry];
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

// Another layer or kind: the same question again, its maps made so.
export async function remake() {
  const before = page.image?.current;
  if (!before) return;
  const [which, target, { model }] = [page.image, page.pinned, page];
  const entry = await request({ ...before.asked, kind: chosenKind(model), layers: chosenLayers(model) }, () => choose(before, model));
  if (!entry || which !== page.image || which.current !== before) return;
  which.entries = which.entries.map((old) => (old === before ? entry : old)).filter((old) => old === entry || !isSame(old, entry));
  show(entry, target);
}

// One question to the server; null when it was overtaken by the next, or failed: then `failed` is called and the error shown.
async function request(asked, failed) {
  page.asking?.abort();
  const mine = page.asking = new AbortController();
  const which = page.image;
  busy(true);
  const start = performance.now();
  try {
    const response = await answer(which, asked, mine.signal);
    if (mine !== page.asking || which !== page.image) return null;
    $("error").hidden = true;
    const [result] = response.results;
    return { asked, response, result, known: targets(result), time: performance.now() - start };
  } catch (error) {
    if (mine === page.asking && which === page.image && error.name !== "AbortError") {
      failed();
      showError(error, isUnsent(which) ? which : null);
    }
    return null;
  } finally {
    if (mine === page.asking) busy(false);
  }
}

// The question's part of a request's form.
const fieldsOf = ({ question, candidates, kind, layers }) => ({ question, candidates, map_kind: kind, layers });

async function answer(which, asked, signal) {
  const fields = { ...fieldsOf(asked), maps: page.model?.map_kinds.length === 0 ? "none" : "u8" };
  const options = { signal, session: which.session };
  if (isUnsent(which)) upload(which); // what failed a while ago may work now
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
  const says = !on ? "ask" : questionKind($("question").value) === "reading" ? "readingText" : "asking";
  Object.assign($("send"), { textContent: t(says) }).dataset.i18n = says; // also in the other language
  $("result").setAttribute("aria-busy", String(on));
  document.body.classList.toggle("busy", on);
}
