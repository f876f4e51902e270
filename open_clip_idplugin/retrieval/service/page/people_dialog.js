// The list of everybody enrolled: rename, forget, add.

import { ask } from "./api.js";
import { announce, byId, counted, jpeg, later, make, openDialog, portrait, showError } from "./dom.js";
import { refreshPeople } from "./people.js";
import { choose, enrolled, isChosen, state, unchoose } from "./state.js";

const PAGE = 60;
let shown = 0;

export function wirePeopleDialog(addPhoto) {
  byId("open-people").addEventListener("click", openPeople);
  byId("people-find").addEventListener("input", later(() => load(0)));
  byId("people-more").addEventListener("click", () => load(shown));
  byId("people-add").addEventListener("click", addPhoto);
}

export async function openPeople() {
  byId("people-add").hidden = !(state.info.people.may_edit && state.info.people.reads_photos);
  openDialog(byId("people"));
  await load(0);
}

const failure = () => byId("people").querySelector(".error");

async function load(offset, message) {
  try {
    showError(null, failure());
    const { total, people } = await ask("people/list", { find: byId("people-find").value.trim(), offset, count: PAGE });
    const entries = people.map(entry);
    if (offset) byId("people-list").append(...entries);
    else byId("people-list").replaceChildren(...entries);
    shown = offset + people.length;
    byId("people-more").hidden = shown >= total;
    announce(message || counted(total, "person", "people"), byId("people-status"));
  } catch (error) {
    showError(error, failure());
  }
}

function entry(person) {
  const picture = jpeg(person.image);
  const facts = [counted(person.photos, "face", "faces")];
  if (person.aliases.length) facts.push(`also called ${person.aliases.join(", ")}`);
  if (person.word) facts.push(`in words “${person.word}”`);
  const consent = person.expired ? `consent ended on ${person.consent_until}` : [person.consent && `consent ${person.consent}`, person.consent_date && `of ${person.consent_date}`, person.consent_until && `until ${person.consent_until}`].filter(Boolean).join(" ");
  const place = make("div", {});
  const actions = make("div", { class: "actions" });
  const item = make("li", {},
    make("div", { class: "row" }, portrait(picture, person.name),
      make("div", {}, make("h3", {}, person.name), make("p", {}, make("small", {}, facts.join(", "))),
        consent && make("p", {}, make("small", {}, consent)), person.notes && make("p", {}, make("small", {}, person.notes)))),
    actions, place);
  const putBack = () => { place.replaceChildren(); actions.hidden = false; actions.querySelector("button")?.focus(); };
  const swap = (form) => { actions.hidden = true; place.replaceChildren(form); form.querySelector("input, button")?.focus(); };
  if (!person.expired) actions.append(make("button", { type: "button", onclick: () => { choose(enrolled({ ...person, picture })); byId("people").close(); } }, "Search"));
  if (state.info.people.may_edit) {
    actions.append(
      make("button", { type: "button", "aria-label": `Rename ${person.name}`, onclick: () => swap(renameForm(person, putBack)) }, "Rename…"),
      make("button", { type: "button", class: "danger", "aria-label": `Forget ${person.name}`, onclick: () => swap(forgetForm(person, putBack)) }, "Forget…"));
  }
  return item;
}

function renameForm(person, cancel) {
  const name = make("input", { value: person.name, required: true, maxLength: 200, autocomplete: "off" });
  return editForm([make("label", {}, "New name ", name)], make("button", { class: "primary" }, "Rename"), cancel, async () => {
    const answer = await ask("people/rename", { name: person.name, new_name: name.value });
    await changed(person.name, answer.person.name, `${person.name} is now called ${answer.person.name}.`);
  });
}

function forgetForm(person, cancel) {
  const question = make("p", {}, `Erase ${person.name}, with ${counted(person.photos, "face", "faces")}, all names and notes? This cannot be undone.`);
  return editForm([question], make("button", { class: "danger" }, "Forget for good"), cancel, async () => {
    const gone = await ask("people/forget", { name: person.name });
    const proof = gone.clean ? "The gallery's file was searched: nothing is left in it." : "Something of it is still in the gallery's file: close other programs that use it, and see docs/people.md.";
    await changed(person.name, null, `${gone.name} was erased with ${counted(gone.photos, "face", "faces")}. ${proof}`);
  });
}

function editForm(content, submit, cancel, work) {
  const problem = make("p", { class: "error", role: "alert", hidden: true });
  const form = make("form", { class: "naming" }, ...content, problem, make("div", { class: "actions" }, submit, make("button", { type: "button", onclick: cancel }, "Cancel")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await work();
    } catch (error) {
      showError(error, problem);
      submit.disabled = false;
    }
  });
  return form;
}

// Somebody has another name now, or none: nothing of the old one stays in the page.
async function changed(name, newName, message) {
  const key = enrolled({ name }).key;
  const chosen = state.chosen.find((person) => person.key === key);
  if (isChosen(key)) unchoose(key);
  if (chosen && newName) choose({ ...chosen, ...enrolled({ name: newName, picture: chosen.picture }) });
  await load(0, message);
  byId("people-title").focus();
  await refreshPeople();
}
