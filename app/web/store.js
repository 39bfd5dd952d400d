// What the browser remembers of the reader's choices; where it may not, nothing.

export function stored(name) {
  try {
    return localStorage.getItem(`crosslook.${name}`);
  } catch {
    return null;
  }
}

export function store(name, value) {
  try {
    localStorage.setItem(`crosslook.${name}`, value);
  } catch {
    // private mode: the choice lasts until the page is left
  }
}
