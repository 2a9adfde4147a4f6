/* What is shown of an answer, and changes without another request: threshold, classes, the object that stands out. */

import { curlCall, pythonCall } from "./calls.js";
import { $ } from "./elements.js";
import { listObjects, showClasses, showCounts, showMarked, showObjects } from "./panel.js";
import { base, hasKey } from "./server.js";
import { redraw, stage } from "./stage.js";
import { say } from "./status.js";

/** Characters of an answer that the page writes out; the rest can be copied and saved. */
const JSON_SHOWN = 200_000;

let chosen = null;

/** Of the calls to copy: the file { name, type, url }, and what names the model where there are several. */
export const asked = { file: { name: "picture.jpg", type: "image/jpeg" }, model: {} };

/** After another scene has come, or other colours were chosen. */
export function recoloured() {
  stage.scene.byClass = $("by-class").checked;
  chosen = null;
  showClasses(stage.scene, filtered);
  listObjects(stage.scene);
  filtered();
}

/** After the threshold or a class was changed. */
export function filtered() {
  const { scene } = stage;
  $("shown").value = Number($("threshold").value).toFixed(2);
  showCalls();
  if (!scene) return;
  scene.threshold = Number($("threshold").value);
  const { shown, objects } = scene;
  showCounts(scene);
  choose(shown.includes(chosen) ? chosen : null);
  say(`${shown.length} of ${objects.length} objects shown.`);
  $("view").setAttribute("aria-label", `${asked.file.name} with ${shown.length} objects drawn over it`);
}

/** `object` stands out until another one is chosen. */
export function choose(object) {
  chosen = object;
  showObjects(stage.scene, chosen);
  pointAt(null);
}

/** `object` stands out for now; without one, the chosen one does again. */
export function pointAt(object) {
  if (!stage.scene || (object && object === stage.marked)) return;
  stage.marked = object ?? chosen;
  showMarked(stage.scene, stage.marked, !object);
  redraw("objects");
}

/** The shown object so many places after the chosen one, or the first or last. */
export function neighbour(step) {
  const { shown } = stage.scene;
  return shown[Math.max(0, Math.min(shown.length - 1, shown.indexOf(chosen) + step))] ?? null;
}

export const chosenObject = () => chosen;

export function showCalls() {
  const options = { score_threshold: Number($("threshold").value), ...wantedClasses(stage.scene), ...asked.model };
  $("curl").textContent = curlCall(base, asked.file, options, hasKey());
  $("python").textContent = pythonCall(base.replace(/\/$/, ""), asked.file, options, hasKey());
}

/** Named where some are hidden; by number where the name would be read as something else. */
function wantedClasses(scene) {
  const wanted = scene?.classes.filter(({ id }) => !scene.hidden.has(id)) ?? [];
  if (!scene?.hidden.size || !wanted.length) return {};
  return { classes: wanted.map(({ id, name }) => (/^\d*$|,|^\s|\s$/.test(name) ? id : name)).join(",") };
}

/** Written out when it is opened: it may be long. */
export function showJson(text) {
  if (!$("json").open) return $("json-text").replaceChildren();
  const pretty = JSON.stringify(JSON.parse(text), null, 1);
  $("json-text").textContent = pretty.slice(0, JSON_SHOWN);
  const isCut = pretty.length > JSON_SHOWN;
  $("json-rest").textContent = isCut ? `The first ${JSON_SHOWN} of ${pretty.length} characters.` : "";
}
