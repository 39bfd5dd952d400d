// What the page listens to, and which of the actions that it is given follows.
import { drawScale } from "./options.js";
import { store } from "./store.js";
import { language } from "./i18n.js";

const $ = (id) => document.getElementById(id);

export function listen(on) {
  listenForImages(on);
  listenForWords(on);
  listenForView(on);
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); on.ask(); });
  $("suggestions").addEventListener("click", (event) => {
    const { question } = event.target.closest("button")?.dataset ?? {};
    if (!question) return;
    $("question").value = question;
    on.ask();
  });
  $("question").addEventListener("input", on.warn);
  $("question").addEventListener("focus", () => $("question").select());
  $("key-form").addEventListener("submit", (event) => { event.preventDefault(); on.useKey($("key").value.trim()); });
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => on.copy(button, $(button.dataset.for).textContent));
  $("link").addEventListener("click", () => on.copyLink());
  $("language").addEventListener("click", () => { store("language", language === "zh" ? "en" : "zh"); on.retell(); });
  $("theme").addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[document.documentElement.dataset.theme ?? "auto"];
    store("theme", next);
    on.dress(next);
  });
  addEventListener("hashchange", on.followLink);
  new ResizeObserver(measureViewer).observe($("viewer"));
}

// So much stays in sight above the answer on a small screen (style.css).
export function measureViewer() {
  document.documentElement.style.setProperty("--viewer", `${$("viewer").offsetHeight}px`);
}

function listenForImages(on) {
  const again = (input) => { input.value = ""; input.click(); }; // the same file may be chosen twice
  $("choose").addEventListener("click", () => again($("file")));
  $("camera").addEventListener("click", () => again($("shot")));
  $("change").addEventListener("click", on.leaveImage);
  for (const input of [$("file"), $("shot")]) input.addEventListener("change", () => { on.open(input.files); });
  $("image").addEventListener("load", () => {
    document.documentElement.style.setProperty("--ratio", $("image").naturalWidth / $("image").naturalHeight);
  });
  $("image").addEventListener("error", on.cannotShow);
  $("cancel").addEventListener("click", on.stop);
  $("retry").addEventListener("click", on.retry);
  addEventListener("paste", (event) => on.open([...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"))));
  for (const name of ["dragover", "dragleave", "drop"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", name === "dragover");
      if (name === "drop") on.open(event.dataTransfer.files);
    });
  }
}

function listenForWords(on) {
  const result = $("result");
  const targetOf = (event) => event.target.closest?.("[data-target]")?.dataset.target;
  for (const name of ["pointerover", "focusin"]) {
    result.addEventListener(name, (event) => { if (targetOf(event)) on.showTarget(targetOf(event)); });
  }
  for (const name of ["pointerout", "focusout"]) {
    result.addEventListener(name, (event) => { if (targetOf(event)) on.showTarget(on.pinned()); });
  }
  result.addEventListener("click", (event) => { if (targetOf(event)) on.pin(targetOf(event)); });
  result.addEventListener("keydown", (event) => {
    if (event.key === "Escape") on.pin("answer");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !targetOf(event)) return;
    event.preventDefault();
    const buttons = [...result.querySelectorAll("[data-target]")];
    buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length].focus();
  });
}

function listenForView(on) {
  const { view } = on;
  $("opacity").addEventListener("input", () => { view.opacity = $("opacity").value / 100; on.redraw(); });
  $("smooth").addEventListener("change", () => { view.smooth = $("smooth").checked; on.redraw(); });
  $("box").addEventListener("change", () => on.showTarget(on.pinned()));
  $("colours").addEventListener("change", () => {
    view.colours = $("colours").value;
    store("colours", view.colours);
    on.redraw();
    drawScale(view);
  });
  for (const id of ["layer", "kind"]) $(id).addEventListener("change", on.remake);
  $("explain").addEventListener("click", () => {
    $("kinds").hidden = !$("kinds").hidden;
    $("explain").setAttribute("aria-expanded", String(!$("kinds").hidden));
  });
  $("save").addEventListener("click", on.savePicture);
}
