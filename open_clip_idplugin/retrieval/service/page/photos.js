// Photos that are chosen, dropped or pasted: their faces are looked for, to search for one of them or to enroll it.

import { ask } from "./api.js";
import { boxedPicture, cutFace } from "./boxes.js";
import { announce, byId, make, openDialog, portrait, showError } from "./dom.js";
import { enrolledSentence, namingForm } from "./naming.js";
import { refreshPeople } from "./people.js";
import { choose, enrolled, setSimilar, state } from "./state.js";

const LONGEST_SIDE = 1600; // pixels; a larger photo is made smaller before it is sent
let photos = 0;

export function wirePhotos() {
  byId("use-photo").addEventListener("click", choosePhoto);
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // so that the same file can be chosen again
    if (file) takePhoto(file);
  });
  const drop = byId("drop");
  addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.hidden = true; });
  addEventListener("drop", (event) => {
    drop.hidden = true;
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    takePhoto(file);
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) takePhoto(file);
  });
}

export const choosePhoto = () => byId("file").click();

async function takePhoto(file) {
  const stage = byId("photo-stage"), facts = byId("photo-facts");
  byId("photo-title").textContent = file.name || "Photo";
  stage.replaceChildren();
  facts.replaceChildren(make("p", { role: "status" }, "Looking for faces…"));
  openDialog(byId("photo"));
  try {
    const source = await readPhoto(file);
    stage.replaceChildren(boxedPicture(source, "the photo", []));
    const found = state.info.people.reads_photos ? await ask("people/in-photo", { photo: source }) : null;
    await showPhoto(source, file.name || "photo", found);
  } catch (error) {
    const problem = make("p", { class: "error", role: "alert" });
    facts.replaceChildren(problem);
    showError(error, problem);
  }
}

// The photo as a data URL: upright, and not larger than needed. What the browser cannot read is sent as it is.
async function readPhoto(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return canvas.toDataURL("image/jpeg", 0.95);
  } catch {
    return await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Error("this file cannot be read"));
      reader.readAsDataURL(file);
    });
  }
}

async function showPhoto(source, label, found) {
  const faces = found ? found.faces.filter((face) => face.usable) : [];
  const items = faces.map((face) => photoFace(source, label, face, faces.length));
  const frame = boxedPicture(source, "the photo, with its faces", faces.map((face, number) => ({
    box: face.box_relative, label: face.name || String(number + 1), known: Boolean(face.name),
    title: `Face ${number + 1}: ${face.name || "unknown"}`, onclick: () => items[number].querySelector("button")?.focus(),
  })), { labels: true });
  byId("photo-stage").replaceChildren(frame);
  const picture = frame.querySelector("img");
  await picture.decode().catch(() => {}); // a picture that only the service can read
  for (const [number, item] of items.entries()) {
    if (picture.naturalWidth) item.querySelector(".face").replaceWith(portrait(cutFace(picture, faces[number].box_relative), ""));
  }
  let words = "This service was started without a face model, so that it cannot look for faces: start it with --faces.";
  if (found) words = items.length ? "Choose whom you mean." : "No face was found in the photo: try a clearer or larger one.";
  byId("photo-facts").replaceChildren(
    make("p", { role: "status" }, words), make("ul", { class: "found" }, ...items),
    make("div", { class: "actions" }, make("button", { type: "button", onclick: () => searchLike(source, label) }, "Find pictures like this photo")));
}

function photoFace(source, label, face, count) {
  const place = make("div", {}), actions = make("div", { class: "actions" });
  const title = make("p", {}, face.name ? make("b", {}, face.name) : "unknown", face.name && make("small", {}, ` face score ${face.similarity.toFixed(2)}`));
  const item = make("li", {}, make("div", { class: "row" }, portrait(null, String(face.face + 1)), title), actions, place);
  actions.append(make("button", { type: "button", onclick: () => searchFace(item, source, face, count) }, "Search for this person"));
  if (state.info.people.may_edit) {
    const back = () => { place.replaceChildren(); actions.hidden = false; actions.querySelector("button").focus(); };
    actions.append(make("button", { type: "button", onclick: () => {
      actions.hidden = true;
      place.replaceChildren(namingForm({ photo: source, face: face.face, label }, (answer) => enrolledHere(item, answer), back));
    } }, face.name ? "Enroll this face…" : "Name and enroll…"));
  }
  return item;
}

function enrolledHere(item, answer) {
  const person = { name: answer.person.name, picture: item.querySelector("img.face")?.src };
  const search = make("button", { type: "button", class: "primary", onclick: () => { closeDialogs(); choose(enrolled(person)); } }, `Search for ${person.name}`);
  item.replaceChildren(make("p", { class: "note", role: "status" }, enrolledSentence(answer)), make("div", { class: "actions" }, search));
  search.focus();
  announce(enrolledSentence(answer));
  refreshPeople();
}

// The service takes the largest face of a photo: of several the one that is meant is cut out.
function searchFace(item, source, face, count) {
  const picture = byId("photo-stage").querySelector("img");
  const photo = count > 1 && picture.naturalWidth ? cutFace(picture, face.box_relative, 0.5, 640) : source;
  const name = face.name || `the face in photo ${++photos}`;
  closeDialogs();
  choose({ key: `photo:${photos}:${face.face}:${name}`, name, picture: item.querySelector("img.face")?.src ?? null, query: { photo, name } });
}

function searchLike(source, label) {
  closeDialogs();
  setSimilar({ name: label, picture: source, fields: { image: source.slice(source.indexOf(",") + 1) } });
}

function closeDialogs() {
  byId("photo").close();
  byId("people").close();
}
