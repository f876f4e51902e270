// The form that gives a face a name: enrolls it, with notes on consent where they are wanted.

import { ask } from "./api.js";
import { byId, later, make, sentence, showError } from "./dom.js";

// `where`: { photo, face, label } or { image_id, face, indice_name }. `done` gets the service's answer.
export function namingForm(where, done, cancel) {
  const failure = make("p", { class: "error", role: "alert", hidden: true });
  const name = make("input", { name: "name", list: "names", required: true, maxLength: 200, autocomplete: "off", oninput: later(suggestNames) });
  const save = make("button", { class: "primary" }, "Enroll");
  const form = make("form", { class: "naming" },
    make("label", {}, "Name ", name, make("small", {}, "An enrolled name adds this face to that person.")),
    make("details", {}, make("summary", {}, "Consent and notes"),
      make("label", {}, "Reference of the consent ", make("input", { name: "consent", autocomplete: "off", placeholder: "such as a form's number" })),
      make("div", { class: "pair" },
        make("label", {}, "Given on ", make("input", { name: "consent_date", type: "date" })),
        make("label", {}, "Holds until ", make("input", { name: "consent_until", type: "date" }))),
      make("label", {}, "In words ", make("input", { name: "word", autocomplete: "off", maxLength: 60, placeholder: "such as a woman" })),
      make("label", {}, "Notes ", make("textarea", { name: "notes", rows: 2 }))),
    failure,
    make("div", { class: "actions" }, save, make("button", { type: "button", onclick: cancel }, "Cancel")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    save.disabled = true;
    showError(null, failure);
    try {
      const details = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
      done(await ask("people/enroll", { ...where, ...details }));
    } catch (error) {
      showError(error, failure);
      save.disabled = false;
    }
  });
  queueMicrotask(() => name.focus());
  return form;
}

// What was done, in words; other people whom the face looks like are named.
export function enrolledSentence({ person, alike }) {
  const photos = person.photos === 1 ? "1 face" : `${person.photos} faces`;
  const others = alike.map((other) => `${other.name} (${other.similarity.toFixed(2)})`).join(", ");
  return `${person.name} is enrolled with ${photos}.` + (others ? sentence(` The face also looks like ${others}: one person under two names is joined by "idclip merge"`) : "");
}

async function suggestNames(event) {
  const find = event.target.value.trim();
  try {
    const { people } = await ask("people/list", { find, count: 20, include_images: false });
    byId("names").replaceChildren(...people.map((person) => make("option", { value: person.name })));
  } catch {
    byId("names").replaceChildren(); // suggestions are not worth a message
  }
}
