// "Did you mean": people whose names the text may hold, as the service tells in a header; a click chooses one.

import { byId, make } from "./dom.js";
import { choose, enrolled, isChosen } from "./state.js";

export function showHints(headers) {
  const hints = JSON.parse(headers.get("Idclip-Hints") ?? "[]");
  const people = [...new Set(hints.flatMap((hint) => hint.people))].filter((name) => !isChosen(enrolled({ name }).key));
  const button = (name) => make("button", { type: "button", class: "plain", onclick: () => choose(enrolled({ name })) }, name);
  byId("hints").replaceChildren(...(people.length ? ["Did you mean ", ...people.flatMap((name, number) => [number ? " or " : "", button(name)]), "?"] : []));
  byId("hints").hidden = people.length === 0;
}
