// A search: what is asked, and the cards of what was found, page by page.

import { ask } from "./api.js";
import { boxedPicture } from "./boxes.js";
import { announce, byId, counted, jpeg, make, shortNumber, showError } from "./dom.js";
import { showHints } from "./hints.js";
import { indexName, setSimilar, state } from "./state.js";

export const found = []; // results on the page, best first
let searches = 0;
let opener = () => {};

export const whenOpened = (work) => { opener = work; };

// The request's fields, without paging; null where nothing is asked.
export function question() {
  const fields = {};
  if (state.similar) Object.assign(fields, state.similar.fields);
  else if (byId("text").value.trim()) fields.text = byId("text").value.trim();
  const people = {};
  for (const person of state.chosen) (people[person.clause] ??= []).push(person.query);
  if (!Object.keys(fields).length && !people.all && !people.any) return null;
  if (people.all && !people.any && byId("only").checked) people.only = true;
  if (Object.keys(people).length) fields.people = people;
  return { ...fields, ...options(), indice_name: indexName() };
}

function options() {
  const fields = {};
  for (const input of byId("advanced").querySelectorAll("[name]")) {
    if (input.name === "page_size" || input.value === "") continue;
    if (!input.checkValidity()) throw new Error(`${input.closest("label").firstChild.textContent.trim()}: ${input.validationMessage}`);
    fields[input.name] = input.type === "number" ? Number(input.value) : input.value;
  }
  const filters = {};
  for (const row of byId("filters").children) {
    const [column, condition, value] = [...row.querySelectorAll("select, input")].map((input) => input.value);
    if (value !== "") (filters[column] ??= {})[condition] = value;
  }
  return Object.keys(filters).length ? { ...fields, filters } : fields;
}

const pageSize = () => Math.max(1, Math.min(Number(byId("advanced").querySelector("[name=page_size]").value) || 24, 200, state.info.limits.results - 1));

// Search anew, or (`onward`) show the next page. `asked`: by the search button, which says so where nothing is asked.
export async function search({ onward = false, asked = false } = {}) {
  const number = ++searches;
  showError(null);
  try {
    const fields = question();
    if (fields === null) {
      if (asked) throw new Error("say whom or what you look for: choose a person, or type something");
      return clear();
    }
    const size = pageSize(), offset = onward ? found.length : 0;
    byId("results").setAttribute("aria-busy", "true");
    announce("Searching…");
    // one more than is shown tells whether there is another page
    const results = await ask("knn-service", { ...fields, offset, num_images: size + 1, num_result_ids: size + 1 }, (headers) => {
      if (number === searches && !onward) showHints(headers);
    });
    if (number !== searches) return;
    show(results.slice(0, size), onward, results.length > size, fields.indice_name);
    if (asked && !onward) bringIntoView();
  } catch (error) {
    if (number !== searches) return;
    announce("");
    showError(error);
  } finally {
    if (number === searches) byId("results").removeAttribute("aria-busy");
  }
}

function clear() {
  found.length = 0;
  byId("cards").replaceChildren();
  byId("more").hidden = true;
  announce("");
}

function show(results, onward, more, index) {
  if (!onward) clear();
  const first = found.length;
  found.push(...results.map((result) => ({ ...result, index, like: state.similar !== null })));
  byId("cards").append(...results.map((result, place) => card(found[first + place], first + place)));
  byId("more").hidden = !more;
  const words = counted(found.length, "result", "results") + (more ? ", and there are more" : "");
  announce(found.length ? words + wayOf(found[0]) + doubts() : "Nothing was found. Fewer people, or lower least scores, show more.");
  if (onward) byId("cards").children[first]?.querySelector("button").focus();
}

// What the people were in the text, where that was no identity token alone.
function wayOf(result) {
  if (result.person_as === "words") return ". The person is words in the text: the faces decide who it is";
  return result.person_as === "both" ? ". The person is a token and words in the text" : "";
}

// Whether faces were compared and say that the people who were asked for are probably not in the picture.
const isDoubtful = (result) => typeof result.probability === "number" && result.probability < state.info.defaults.probably;

function doubts() {
  const grey = found.filter(isDoubtful).length;
  if (!grey) return "";
  const most = Math.round(100 * state.info.defaults.probably);
  if (grey === found.length) return `. Who you asked for was probably not found: no picture shows them with a probability of ${most} %`;
  return `. Grey ones (${grey}) probably do not show who you asked for`;
}

function bringIntoView() {
  const title = byId("results-title");
  if (title.getBoundingClientRect().top > innerHeight * 0.7) title.scrollIntoView();
}

function card(result, place) {
  const title = titleOf(result);
  return make("li", isDoubtful(result) ? { class: "doubtful" } : {},
    make("button", { type: "button", class: "open", "aria-label": `Result ${place + 1}: ${title}`, onclick: () => opener(place) }, pictureOf(result, title)),
    make("p", { class: "caption" }, title), scoresOf(result),
    isDoubtful(result) && make("p", { class: "doubt" }, "probably not in this picture"),
    result.why && make("details", {}, make("summary", {}, "Why"), make("p", {}, result.why)),
    make("button", { type: "button", class: "plain like", onclick: () => searchAlike(result) }, "More like this"));
}

export const titleOf = (result) => result.caption || result.key || `image ${result.id}`;

function pictureOf(result, title) {
  if (!result.image) return make("span", { class: "nopicture" }, `no picture is kept of ${result.key || `image ${result.id}`}`);
  const boxes = (result.matched || []).filter((match) => match.face_box_relative);
  return boxedPicture(jpeg(result.image), title, boxes.map((match) => ({ box: match.face_box_relative, label: match.name })), { lazy: true });
}

export function scoresOf(result) {
  const parts = [[result.like ? "likeness" : result.person_as === "words" ? "text" : "IdCLIP", result.similarity], ["face", result.face_similarity]].filter(([, value]) => typeof value === "number");
  const chance = typeof result.probability === "number" && make("span", {}, "in it ", make("b", {}, percent(result.probability)));
  return make("p", { class: "scores" }, ...parts.map(([name, value]) => make("span", {}, `${name} `, make("b", {}, shortNumber(value)))), chance);
}

const percent = (share) => share < 0.01 ? "< 1 %" : share > 0.99 ? "> 99 %" : `${Math.round(100 * share)} %`;

export function searchAlike(result) {
  setSimilar({ name: `image ${result.id}`, picture: jpeg(result.image), fields: { image_id: result.id } });
}
