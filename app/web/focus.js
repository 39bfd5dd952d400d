// The focus, where what has it goes away.

const $ = (id) => document.getElementById(id);

const isSeen = (node) => node?.getClientRects().length > 0;

// To the first of these that is seen, else to where one goes on: on a touch screen not the field, whose keyboard would cover
// the image.
export function focusOn(...nodes) {
  const next = matchMedia("(pointer: coarse)").matches ? "change" : "question";
  [...nodes, $(next), $("choose")].find(isSeen)?.focus({ preventScroll: true });
}

// Fill a list anew; `hidden`: the list, or the part of the page that it stands in. Each button says what it is `of`: the focus
// stays with that, and where that is gone with the list.
export function refill(list, items, hidden, part = list) {
  const { of } = list.contains(document.activeElement) ? document.activeElement : {};
  part.hidden = hidden;
  list.replaceChildren(...items);
  const buttons = [...list.querySelectorAll("button")];
  if (of) focusOn(buttons.find((button) => button.of === of), buttons[0]);
}
