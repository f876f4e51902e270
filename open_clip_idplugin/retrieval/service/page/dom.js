// Small helpers around the document; texts are always set as texts, never as markup.

export const byId = (id) => document.getElementById(id);

// A new element: attributes by name, properties where a value is no string, `on...` for listeners.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "string") element.setAttribute(name, value);
    else if (value === true) element.setAttribute(name, "");
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const jpeg = (base64) => (base64 ? `data:image/jpeg;base64,${base64}` : null);

// "one result", "2 results"
export const counted = (number, one, many) => (number === 1 ? `1 ${one}` : `${number} ${many}`);

export const shortNumber = (value) => (typeof value === "number" ? value.toFixed(3) : "");

// A round picture of a person, or the first letter of the name.
export function portrait(picture, name) {
  if (picture) return make("img", { class: "face", src: picture, alt: "", loading: "lazy" });
  return make("span", { class: "face", "aria-hidden": "true" }, [...(name || "?")][0]?.toUpperCase() || "?");
}

// Say something to everybody, screen readers included.
export function announce(text, place = byId("status")) {
  place.textContent = text;
}

export function showError(error, place = byId("error")) {
  place.textContent = error ? sentence(error.message || String(error)) : "";
  place.hidden = !error;
  if (error && place.scrollIntoView) place.scrollIntoView({ block: "nearest" });
}

export function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

// Dialogs: opened once, closed by their button, Escape or a click beside them; the focus goes back to where it was.
export function openDialog(dialog) {
  if (dialog.open) return;
  const before = document.activeElement;
  dialog.addEventListener("close", () => before?.isConnected && before.focus?.(), { once: true });
  dialog.showModal();
  dialog.querySelector("h2")?.focus();
}

export function wireDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    let pressed = false; // on the backdrop; a drag that ends there is no click
    dialog.addEventListener("pointerdown", (event) => { pressed = event.target === dialog && outside(dialog, event); });
    dialog.addEventListener("click", (event) => { if (pressed && event.target === dialog && outside(dialog, event)) dialog.close(); });
  }
}

function outside(dialog, event) {
  const sides = dialog.getBoundingClientRect();
  return event.clientX < sides.left || event.clientX > sides.right || event.clientY < sides.top || event.clientY > sides.bottom;
}

// Call `work` once, when the events have paused; `cancel` forgets a call that is still to come.
export function later(work, milliseconds = 200) {
  let timer;
  const wait = (...values) => { clearTimeout(timer); timer = setTimeout(() => work(...values), milliseconds); };
  wait.cancel = () => clearTimeout(timer);
  return wait;
}
