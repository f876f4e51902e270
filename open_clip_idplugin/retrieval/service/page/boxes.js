// A picture with frames around its faces. Boxes are [left, top, right, bottom] in shares of the picture's sides.

import { make } from "./dom.js";

// `faces`: [{ box, label, known, onclick }]; frames that can be clicked are buttons, and carry their label.
export function boxedPicture(source, alternative, faces, { labels = false, lazy = false } = {}) {
  const picture = make("img", { src: source, alt: alternative, loading: lazy ? "lazy" : null });
  const frame = make("span", { class: "boxed" }, picture);
  picture.addEventListener("load", () => frame.style.setProperty("--ratio", String(picture.naturalWidth / picture.naturalHeight)));
  for (const face of faces) frame.append(boxOf(face, labels));
  return frame;
}

function boxOf(face, labels) {
  const [left, top, right, bottom] = face.box;
  const kind = `box${face.known ? " known" : ""}${top < 0.08 ? " low" : ""}`;
  const text = labels && face.label ? [make("span", { "aria-hidden": "true" }, face.label)] : [];
  const box = face.onclick
    ? make("button", { type: "button", class: kind, "aria-label": face.title || face.label, onclick: face.onclick }, ...text)
    : make("span", { class: kind, title: face.title || face.label }, ...text);
  Object.assign(box.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
  });
  return box;
}

// A square around a face as a data URL, cut out of a loaded picture; `margin` in shares of the face's longer side.
export function cutFace(picture, [left, top, right, bottom], margin = 0.15, longest = 112) {
  const width = picture.naturalWidth || picture.width, height = picture.naturalHeight || picture.height;
  const side = Math.min(Math.max((right - left) * width, (bottom - top) * height) * (1 + 2 * margin), width, height);
  const x = clamp(((left + right) / 2) * width - side / 2, width - side);
  const y = clamp(((top + bottom) / 2) * height - side / 2, height - side);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.max(1, Math.round(Math.min(side, longest)));
  canvas.getContext("2d").drawImage(picture, x, y, side, side, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

const clamp = (value, most) => Math.max(0, Math.min(value, most));
