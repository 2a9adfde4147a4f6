/* What stands beside and below the picture: classes, objects, an object's details, where the time went. */

import { $, element } from "./elements.js";
import { classColour } from "./scene.js";

/** While there is no answer: the panel keeps its place. */
export function emptyPanel() {
  $("found").inert = true;
  for (const id of ["classes", "objects", "details", "count"]) $(id).replaceChildren();
  for (const id of ["many-classes", "by-class-label", "no-details", "time", "json"]) $(id).hidden = true;
}

/** A toggle for each class of the scene; `changed` is called after one was switched. */
export function showClasses(scene, changed) {
  const rows = scene.classes.map(({ id, name }) => {
    const box = element("input", { type: "checkbox", checked: !scene.hidden.has(id) });
    box.addEventListener("change", () => {
      if (box.checked) scene.hidden.delete(id);
      else scene.hidden.add(id);
      changed();
    });
    return element("label", { className: "class" }, box, swatch(scene.byClass ? classColour(id) : null),
      element("span", { className: "name", textContent: name }),
      element("span", { className: "quiet", id: `class-${id}` }));
  });
  $("classes").replaceChildren(...rows);
  $("many-classes").hidden = scene.classes.length < 3;
  $("by-class-label").hidden = !scene.classes.length;
  showCounts(scene);
}

export function showCounts(scene) {
  for (const { id } of scene.classes) $(`class-${id}`).textContent = scene.count(id);
}

/** Without a colour: of many. */
function swatch(colour) {
  const made = element("span", { className: colour ? "swatch" : "swatch many" });
  if (colour) made.style.setProperty("background", colour);
  return made;
}

/** A row for each object, in the answer's order: by falling score. */
export function listObjects(scene) {
  $("objects").replaceChildren(...scene.objects.map((object) => {
    const row = element("li", { id: `object-${object.index}`, role: "option", ariaSelected: "false" });
    row.append(swatch(scene.colour(object)),
      element("span", { className: "quiet", textContent: object.index + 1 }),
      element("span", { className: "name", textContent: object.className }),
      element("span", { className: "quiet", textContent: object.score.toFixed(3) }));
    return row;
  }));
}

/** Which rows are there now, which one is chosen. */
export function showObjects(scene, chosen) {
  const shown = new Set(scene.shown), list = $("objects");
  for (const object of scene.objects) {
    const row = list.children[object.index];
    row.hidden = !shown.has(object);
    row.ariaSelected = String(object === chosen);
  }
  $("count").textContent = shown.size;
  if (chosen && shown.has(chosen)) list.setAttribute("aria-activedescendant", `object-${chosen.index}`);
  else list.removeAttribute("aria-activedescendant");
}

/** Which row and whose details stand out while an object is pointed at. */
export function showMarked(scene, marked, isChosen) {
  const list = $("objects");
  for (const row of list.querySelectorAll(".marked")) row.classList.remove("marked");
  if (marked) list.children[marked.index].classList.add("marked");
  if (marked && isChosen) scrollTo(list, list.children[marked.index]);
  $("details").replaceChildren(...(marked ? detailsOf(marked, scene) : []));
  $("no-details").hidden = Boolean(marked);
}

/** Within the list only: the page stays where it is. */
function scrollTo(list, row) {
  const top = row.offsetTop, bottom = top + row.offsetHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

function detailsOf({ index, box: [x1, y1, x2, y2], className, score, area }, { width, height }) {
  const rows = {
    Object: `${index + 1}, ${className}`,
    Score: score.toFixed(4),
    Corner: `${x1.toFixed(1)}, ${y1.toFixed(1)} px`,
    Size: `${(x2 - x1).toFixed(1)} × ${(y2 - y1).toFixed(1)} px`,
    Area: `${area} px, ${((100 * area) / (width * height)).toPrecision(2)} %`,
  };
  return Object.entries(rows).map(([name, text]) => pair(name, text));
}

const pair = (name, text) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text }));

/** `timings` as the answer has them, and the milliseconds from sending the picture to the answer's last byte. */
export function showTimes(timings, roundTripMs) {
  const { decode, queue, inference, postprocess, total } = timings;
  const rest = Math.max(0, total - decode - queue - inference - postprocess);
  const stages = { decode, queue, inference, postprocess, other: rest, network: Math.max(0, roundTripMs - total) };
  const parts = Object.entries(stages);
  $("bar").replaceChildren(...parts.map(([name, ms]) => {
    const part = element("span", { className: name });
    part.style.setProperty("flex-grow", ms);
    return part;
  }));
  $("stages").replaceChildren(...parts.map(([name, ms]) => {
    const row = pair(name, `${milliseconds(ms)} ms`);
    row.prepend(element("span", { className: `swatch ${name}` }));
    return row;
  }));
  $("total").textContent = `${milliseconds(roundTripMs)} ms there and back`;
  $("time").hidden = false;
}

/** Added when it is known: how long the page itself took to draw the answer. */
export function showDrawn(ms) {
  $("total").append(element("span", { textContent: `, ${milliseconds(ms)} ms to draw` }));
  $("time").dataset.drawnMs = ms;
}

const milliseconds = (ms) => (ms < 10 ? ms.toFixed(1) : ms.toFixed(0));
