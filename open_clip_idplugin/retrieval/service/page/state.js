// What the page knows: the service's description, who is chosen, and which picture stands for the text.
//
// A chosen person: { key, name, picture (data URL or null), clause: "all" | "any" | "none", query }, where `query` goes into the
// request: an enrolled name, { photo }, or { image_id, face }. `similar`: { name, picture, fields }, or null.

export const state = { info: null, chosen: [], similar: null };

const listeners = [];

export const whenChosen = (work) => listeners.push(work);
const changed = () => listeners.forEach((work) => work());

export const indexName = () => document.getElementById("index").value || state.info.indices[0].name;
export const indexInfo = () => state.info.indices.find((index) => index.name === indexName());

export const isChosen = (key) => state.chosen.some((person) => person.key === key);

export function choose(person) {
  if (!isChosen(person.key)) state.chosen.push({ clause: "all", ...person });
  changed();
}

export function unchoose(key) {
  state.chosen = state.chosen.filter((person) => person.key !== key);
  changed();
}

export function setClause(key, clause) {
  const person = state.chosen.find((one) => one.key === key);
  if (person) person.clause = clause;
  changed();
}

export function setSimilar(similar) {
  state.similar = similar;
  changed();
}

// Rows belong to one index: what was chosen by them goes when another index is chosen.
export function forgetRows() {
  const before = state.chosen.length + (state.similar ? 1 : 0);
  state.chosen = state.chosen.filter((person) => !(person.query instanceof Object && "image_id" in person.query));
  if (state.similar && "image_id" in state.similar.fields) state.similar = null;
  if (before !== state.chosen.length + (state.similar ? 1 : 0)) changed();
}

export const enrolled = (person) => ({
  key: `name:${person.name}`, name: person.name, picture: person.picture ?? null, query: person.name,
});
