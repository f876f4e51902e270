// One picture large: its faces, who they are, and what can be done with them.

import { ask } from "./api.js";
import { boxedPicture, cutFace } from "./boxes.js";
import { announce, byId, jpeg, make, openDialog, portrait, showError, shortNumber } from "./dom.js";
import { enrolledSentence, namingForm } from "./naming.js";
import { refreshPeople } from "./people.js";
import { found, scoresOf, searchAlike, titleOf } from "./results.js";
import { choose, enrolled, state } from "./state.js";

const HIDDEN = new Set(["id", "image", "index", "like", "similarity", "score", "text_similarity", "face_similarity", "probability", "face_box", "face_box_relative", "matched", "why", "caption", "faces_found"]);
let current = 0;

export function wireViewer() {
  byId("viewer-back").addEventListener("click", () => openPicture(current - 1));
  byId("viewer-next").addEventListener("click", () => openPicture(current + 1));
  byId("viewer").addEventListener("keydown", (event) => {
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    if (event.key === "ArrowLeft" && current > 0) openPicture(current - 1);
    if (event.key === "ArrowRight" && current < found.length - 1) openPicture(current + 1);
  });
}

export async function openPicture(place, message) {
  current = place;
  const result = found[place];
  byId("viewer-title").textContent = titleOf(result);
  byId("viewer-back").disabled = place === 0;
  byId("viewer-next").disabled = place === found.length - 1;
  showStage(result, []);
  const faces = make("div", {}, make("p", { role: "status" }, "Looking up the faces…"));
  byId("viewer-facts").replaceChildren(
    scoresOf(result), result.why && make("p", {}, make("small", {}, result.why)), faces,
    make("div", { class: "actions" }, make("button", { type: "button", onclick: () => { searchAlike(result); byId("viewer").close(); } }, "Pictures like this")),
    details(result));
  openDialog(byId("viewer"));
  try {
    const answer = await ask("people/in-image", { image_id: result.id, indice_name: result.index });
    if (current === place) await showFaces(result, answer, faces, message);
  } catch (error) {
    const problem = make("p", { class: "error", role: "alert" });
    faces.replaceChildren(problem);
    showError(error, problem);
  }
}

function showStage(result, faces) {
  const source = jpeg(result.image);
  const picture = source ? boxedPicture(source, titleOf(result), faces, { labels: true }) : make("p", { class: "nopicture" }, "No picture is kept of this image.");
  byId("viewer-stage").replaceChildren(picture);
  return picture.querySelector("img");
}

async function showFaces(result, { index_has_faces: known, faces }, place, message) {
  const items = faces.map((face) => faceItem(result, face));
  const picture = showStage(result, faces.map((face, number) => ({
    box: face.box_relative, label: face.name || "?", known: Boolean(face.name),
    title: `Face ${number + 1}: ${face.name || "unknown"}`, onclick: () => { items[number].scrollIntoView({ block: "nearest" }); items[number].querySelector("button").focus(); },
  })));
  let words = "The index holds no faces: add them with “idclip index_faces”.";
  if (known) words = faces.length ? "" : "No face was found in this picture.";
  const notice = message ? make("p", { class: "note", role: "status" }, message) : make("p", { role: "status" }, words);
  place.replaceChildren(make("h3", {}, "Faces"), notice, make("ul", { class: "found" }, ...items));
  if (!picture) return;
  await picture.decode().catch(() => {});
  for (const [number, item] of items.entries()) item.querySelector(".face").replaceWith(portrait(cutFace(picture, faces[number].box_relative), ""));
}

function faceItem(result, face) {
  const where = { image_id: result.id, face: face.face };
  const place = make("div", {}), actions = make("div", { class: "actions" });
  const title = make("p", {}, face.name ? make("b", {}, face.name) : "unknown", face.name && make("small", {}, ` face score ${shortNumber(face.similarity)}`));
  const item = make("li", {}, make("div", { class: "row" }, portrait(null, String(face.face + 1)), title), actions, place);
  actions.append(make("button", { type: "button", onclick: () => {
    const picture = item.querySelector("img.face")?.src ?? null;
    choose(face.name ? enrolled({ name: face.name, picture })
      : { key: `face:${result.index}:${result.id}:${face.face}`, name: `face ${face.face + 1} of image ${result.id}`, picture, query: { ...where, name: `face ${face.face + 1} of image ${result.id}` } });
    byId("viewer").close();
  } }, face.name ? `Find ${face.name}` : "Find this face"));
  if (state.info.people.may_edit) {
    const back = () => { place.replaceChildren(); actions.hidden = false; actions.querySelector("button").focus(); };
    actions.append(make("button", { type: "button", onclick: () => {
      actions.hidden = true;
      place.replaceChildren(namingForm({ ...where, indice_name: result.index }, async (answer) => {
        const words = enrolledSentence(answer);
        announce(words);
        refreshPeople();
        await openPicture(current, words); // who is known has changed
        byId("viewer-title").focus();
      }, back));
    } }, face.name ? "Another name…" : "Name this face…"));
  }
  return item;
}

function details(result) {
  const entries = Object.entries(result).filter(([name, value]) => !HIDDEN.has(name) && value !== null && typeof value !== "object");
  const list = make("dl", {}, ...entries.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
  return make("details", {}, make("summary", {}, "About this picture"), list);
}
