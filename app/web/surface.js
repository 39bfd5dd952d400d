// The page's language and theme, and copying.
import { language, setLanguage, t } from "./i18n.js";
import { stored } from "./store.js";

const $ = (id) => document.getElementById(id);

export async function copy(button, text, said = "copied") {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no secure context
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  const before = button.dataset.i18n;
  button.textContent = t(said);
  setTimeout(() => { button.textContent = t(before); }, 2000);
}

export function dress(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").title = t(`theme_${theme}`);
  $("theme").setAttribute("aria-label", t(`theme_${theme}`));
}

export function speak() {
  const preferred = navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en";
  setLanguage(stored("language") ?? preferred);
  const button = $("language");
  Object.assign(button, language === "zh" ? { textContent: "English", lang: "en" } : { textContent: "中文", lang: "zh" });
  button.setAttribute("aria-label", language === "zh" ? "Switch to English" : "切换到中文");
  dress(stored("theme") ?? "auto");
}
