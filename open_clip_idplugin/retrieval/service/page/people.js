// Enrolled people: the strip of faces to choose from, and what was chosen.

import { ask } from "./api.js";
import { byId, jpeg, later, make, portrait, showError } from "./dom.js";
import { choose, enrolled, isChosen, setClause, setSimilar, state, unchoose, whenChosen } from "./state.js";

const PAGE = 40;
const MANY = 12; // from so many people on a field to find one helps
let shown = [];
let request = 0;

export function wirePeople() {
  byId("find-person").addEventListener("input", later(() => refreshPeople()));
  byId("find-person").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // not the search: the first person found
    if (shown.length) toggle(shown[0]);
  });
  byId("more-faces").addEventListener("click", () => load(shown.length));
  whenChosen(() => { markPressed(); showChosen(); });
}

// Read the list again, as after somebody was enrolled, renamed or forgotten.
export async function refreshPeople() {
  await load(0);
}

async function load(offset) {
  const number = ++request;
  const find = byId("find-person").value.trim();
  try {
    const { total, people } = await ask("people/list", { find, offset, count: PAGE });
    if (number !== request) return; // another one was asked for meanwhile
    const added = people.map((person) => ({ ...person, picture: jpeg(person.image) }));
    shown = offset ? [...shown, ...added] : added;
    byId("find-label").hidden = !find && total <= MANY;
    byId("more-faces").hidden = shown.length >= total;
    show(find);
  } catch (error) {
    showError(error);
  }
}

function show(find) {
  byId("faces").replaceChildren(...shown.map((person) => make("li", {}, faceButton(person))));
  const hint = byId("no-faces");
  hint.hidden = shown.length > 0;
  if (find) hint.textContent = `Nobody enrolled is called “${find}”.`;
  else if (!state.info.people.may_edit) hint.textContent = "Nobody is enrolled yet.";
  else hint.textContent = "Nobody is enrolled yet. Use a photo of somebody, or open a picture and name a face in it.";
  markPressed();
}

function faceButton(person) {
  const button = make("button", { type: "button", onclick: () => toggle(person) }, portrait(person.picture, person.name), person.name);
  button.dataset.key = enrolled(person).key;
  if (person.expired) {
    button.setAttribute("aria-disabled", "true");
    button.title = `The consent ended on ${person.consent_until}`;
    button.append(make("small", {}, "consent ended"));
  }
  return button;
}

function toggle(person) {
  const one = enrolled(person);
  if (isChosen(one.key)) unchoose(one.key);
  else if (!person.expired) choose(one);
}

function markPressed() {
  for (const button of byId("faces").querySelectorAll("button")) button.setAttribute("aria-pressed", String(isChosen(button.dataset.key)));
}

const CLAUSES = { all: "is shown", any: "is one of several", none: "is not shown" };

function showChosen() {
  const focused = document.activeElement?.dataset?.of; // the list is made anew: give the focus back
  const chips = state.chosen.map((person) => make("li", {}, portrait(person.picture, person.name), make("span", { class: "name" }, person.name),
    clauseChoice(person), removeButton(person.name, `remove ${person.key}`, () => unchoose(person.key))));
  if (state.similar) {
    chips.unshift(make("li", {}, portrait(state.similar.picture, "?"), make("span", { class: "name" }, `like ${state.similar.name}`),
      removeButton(`like ${state.similar.name}`, "remove similar", () => setSimilar(null))));
  }
  byId("chosen").replaceChildren(...chips);
  const all = state.chosen.filter((person) => person.clause === "all").length;
  byId("only-label").hidden = !all || state.chosen.some((person) => person.clause === "any");
  const text = byId("text");
  text.disabled = state.similar !== null;
  text.placeholder = state.similar ? "the chosen picture stands for the text" : "for example: feeding a horse";
  if (focused) (byId("chosen").querySelector(`[data-of="${CSS.escape(focused)}"]`) || byId("text")).focus();
}

function clauseChoice(person) {
  const choice = make("select", { "aria-label": `What about ${person.name}?`, onchange: (event) => setClause(person.key, event.target.value) },
    ...Object.entries(CLAUSES).map(([value, label]) => make("option", { value, selected: value === person.clause }, label)));
  choice.dataset.of = `clause ${person.key}`;
  return choice;
}

function removeButton(name, mark, onclick) {
  const button = make("button", { type: "button", "aria-label": `Remove ${name}`, onclick }, "×");
  button.dataset.of = mark;
  return button;
}
