// The page's start: ask what the service offers, then wire everything.

import { ask } from "./api.js";
import { byId, later, make, showError, wireDialogs } from "./dom.js";
import { refreshPeople, wirePeople } from "./people.js";
import { wirePeopleDialog } from "./people_dialog.js";
import { choosePhoto, wirePhotos } from "./photos.js";
import { search, whenOpened } from "./results.js";
import { forgetRows, indexInfo, state, whenChosen } from "./state.js";
import { openPicture, wireViewer } from "./viewer.js";

const CONDITIONS = { eq: "is", not: "is not", min: "at least", max: "at most" };

async function start() {
  wireDialogs();
  try {
    state.info = await ask("service-info");
  } catch (error) {
    showError(error);
    return;
  }
  byId("logout").hidden = !state.info.needs_token;
  byId("index").replaceChildren(...state.info.indices.map((index) => make("option", { value: index.name }, `${index.name} (${index.rows})`)));
  byId("index-choice").hidden = state.info.indices.length < 2;
  const { face_weight: weight, face_threshold: threshold } = state.info.defaults;
  byId("advanced").querySelector("[name=face_weight]").placeholder = String(weight);
  byId("advanced").querySelector("[name=face_threshold]").placeholder = String(threshold);
  fitToIndex();
  wirePeople();
  wirePeopleDialog(choosePhoto);
  wirePhotos();
  wireViewer();
  wireSearch();
  await refreshPeople();
}

function wireSearch() {
  const again = later(() => search(), 150);
  whenChosen(again);
  whenOpened(openPicture);
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    again.cancel(); // a field that was left for the button has asked already
    search({ asked: true });
  });
  byId("forget-options").addEventListener("click", () => {
    for (const input of byId("advanced").querySelectorAll("[name]")) input.value = input.tagName === "SELECT" ? "" : input.defaultValue;
    byId("filters").replaceChildren();
    again();
  });
  byId("only").addEventListener("change", again);
  byId("advanced").addEventListener("change", again);
  byId("more").addEventListener("click", () => search({ onward: true }));
  byId("add-filter").addEventListener("click", addFilter);
  byId("index").addEventListener("change", () => {
    forgetRows();
    fitToIndex();
    again();
  });
}

// Columns differ from index to index.
function fitToIndex() {
  const index = indexInfo();
  byId("collapse").replaceChildren(make("option", { value: "" }, "(show all)"),
    ...(index.has_faces ? [make("option", { value: "near_duplicates" }, "group of near-duplicates")] : []),
    ...index.columns.filter((column) => !["caption", "key"].includes(column)).map((column) => make("option", { value: column }, column)));
  byId("filters").replaceChildren();
  const { auto, note } = index.person_as, choice = byId("person-as");
  byId("person-as-note").hidden = note === null;
  byId("person-as-note").textContent = note ?? "";
  choice.options[0].textContent = auto === "words" ? "Words (default)" : "Identity token (default)";
  for (const option of choice.options) option.disabled = auto === "words" && ["token", "both"].includes(option.value);
  if (choice.selectedOptions[0].disabled) choice.value = "";
}

function addFilter() {
  const columns = indexInfo().columns.map((column) => make("option", { value: column }, column));
  const row = make("li", {},
    make("select", { "aria-label": "Column" }, ...columns),
    make("select", { "aria-label": "Condition" }, ...Object.entries(CONDITIONS).map(([value, label]) => make("option", { value }, label))),
    make("input", { "aria-label": "Value", autocomplete: "off" }),
    make("button", { type: "button", "aria-label": "Remove the condition", onclick: () => { row.remove(); byId("add-filter").focus(); search(); } }, "×"));
  byId("filters").append(row);
  row.querySelector("select").focus();
}

start();
