// The images to start with, and what to ask about each; and what may be asked about any photograph.
import { FAILURES, SUGGESTIONS, SUGGESTIONS_ZH } from "./suggestions.js";

export const isExample = (name) => Object.hasOwn(SUGGESTIONS, name);

// What fits most photographs; the first fits any.
const FOR_ANY = ["What is this?", "Is there a person?", "What animal is this?", "What sport is this?", "What color is the sky?"];
const FOR_ANY_ZH = ["这是什么？", "照片里有人吗？", "这是什么动物？", "这是在室内还是室外？", "天空是什么颜色？"];

// The questions about an example, or about any photograph (name null): [{text, lang, failure}].
export function questionsAbout(name, chinese) {
  const found = chinese ? (name ? SUGGESTIONS_ZH[name] : FOR_ANY_ZH) : null;
  const [texts, lang] = found?.length ? [found, "zh"] : [name ? SUGGESTIONS[name] : FOR_ANY, "en"];
  return texts.map((text) => ({ text, lang, failure: FAILURES.includes(`${name}: ${text}`) }));
}

// Fill `list` with a button an image, which calls open(name).
export function listExamples(list, open) {
  list.replaceChildren(...Object.keys(SUGGESTIONS).map((name) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.name = name;
    button.append(Object.assign(document.createElement("img"), { src: `examples/${name}.jpg`, alt: "" }));
    button.addEventListener("click", () => open(name));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

export async function exampleFile(name) {
  const blob = await (await fetch(`examples/${name}.jpg`)).blob();
  return new File([blob], `${name}.jpg`, { type: blob.type });
}
