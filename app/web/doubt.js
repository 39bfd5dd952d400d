// How far an answer may be trusted, by the model's own figures on photographs that were kept from its training.

const LEAST = 0.6; // right less often than that: "not sure"
const NEAR = 0.75; // a runner-up with so much of the best score: a tie
const WORTH = 0.25; // a second runner-up with less of the best score is none to name
const LITTLE = 0.05; // nor is the first with less than both
const BAD = 0.4; // right less often than that among all questions of a kind: what the model is bad at
const NO_KIND = "other"; // too many things to warn of

let patterns = [];
let forms = [];

// What tells a question's kind and form: the server's own patterns (model/question_kinds.py).
export async function loadKinds() {
  const response = await fetch("web/kinds.json");
  if (!response.ok) return;
  const found = await response.json();
  patterns = found.kinds.map(([kind, pattern]) => [kind, new RegExp(pattern, "u")]);
  forms = found.forms.map(([form, kind, pattern]) => [form, kind, new RegExp(pattern, "u")]);
}

const plain = (text) => text.toLowerCase().trim().split(/\s+/).join(" ");

export function questionKind(text) {
  return patterns.find(([, pattern]) => pattern.test(plain(text)))?.[0] ?? "other";
}

// The form of a question within its kind, where it has one.
export function questionForm(text) {
  const kind = questionKind(text);
  return forms.find(([, own, pattern]) => own === kind && pattern.test(plain(text)))?.[0];
}

// The share of a kind's questions, or of a form's that was measured by itself, that was answered right where the model is bad at them, else null.
export function weakness(model, text) {
  if (!model?.reliability || !patterns.length || !text.trim()) return null;
  const kind = questionKind(text);
  const language = /\p{Script=Han}/u.test(text) ? "zh" : undefined; // English bands name none
  const rows = model.reliability.filter((band) => band.kind === kind && band.language === language);
  const form = questionForm(text);
  const own = rows.filter((band) => band.form === form);
  const bands = own.length ? own : rows.filter((band) => !band.form);
  const count = bands.reduce((sum, band) => sum + band.count, 0);
  const share = bands.reduce((sum, band) => sum + band.count * band.right, 0) / count;
  return count && kind !== NO_KIND && share < BAD ? { kind: bands[0].form ?? kind, share } : null;
}

// Whether the answer is that no text was found or could be read: it has no score to speak of.
const NOTHING = new Set(["no text found", "unreadable", "没有找到文字", "无法读取文字"]); // model/compact/reading/answer.py
export const readNothing = ({ answer, score_over: over }) => over === "text" && NOTHING.has(answer);

// Whether to say "not sure" (as crosslook/results.py does), and what else the answer may be.
export function doubt({ question, ranking, reliability, score_over: over }) {
  const [best, ...others] = ranking;
  if (readNothing({ answer: best.answer, score_over: over })) return { unsure: false, instead: [] };
  const close = others.filter((other) => other.score >= NEAR * best.score);
  const unsure = (reliability ? reliability.right < LEAST : false) || (close.length > 0 && over !== "sequence");
  const worth = close.length ? close.slice(0, 3) : others.slice(0, 2).filter(({ score }, index) => score >= WORTH * best.score || (index === 0 && score >= LITTLE));
  const offered = /\bor\b|还是/.test(question) ? worth.filter(({ answer }) => question.includes(answer)) : worth;
  return { unsure, instead: unsure ? offered.map(({ answer }) => answer) : [] };
}
