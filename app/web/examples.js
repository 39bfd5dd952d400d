// The images to start with, and what to ask about each.

const QUESTIONS = {
  cat: ["What animal is this?", "What color are its eyes?", "Is the cat sleeping?"],
  coffee: ["What is in the cup?", "What color is the cup?", "Is there a spoon?"],
  rocket: ["What is in the sky?", "Is it night?", "Is there smoke?"],
};

// Fill `list` with a button an image, which calls open(file, questions).
export function listExamples(list, open) {
  list.replaceChildren(...Object.entries(QUESTIONS).map(([name, questions]) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.name = name;
    button.append(Object.assign(document.createElement("img"), { src: `examples/${name}.jpg`, alt: "" }));
    button.addEventListener("click", async () => {
      const blob = await (await fetch(`examples/${name}.jpg`)).blob();
      open(new File([blob], `${name}.jpg`, { type: blob.type }), questions);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}
