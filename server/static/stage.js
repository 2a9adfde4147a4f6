/* The two canvases and what lies on them: a picture, the scene of its answer, the object that stands out. */

import { drawObjects, drawPicture } from "./drawing.js";
import { $ } from "./elements.js";
import { View } from "./view.js";

export const view = new View();

/** `picture` as the browser decodes it, null where it cannot; `scene` null until there is an answer. */
export const stage = { picture: null, scene: null, marked: null };

const layers = [$("picture"), $("view")].map((canvas) => canvas.getContext("2d"));
const isStale = { picture: false, objects: false };

/** In the next frame, once, however often it is asked for. */
export function redraw(...parts) {
  if (!isStale.picture && !isStale.objects) requestAnimationFrame(draw);
  for (const part of parts) isStale[part] = true;
}

/** After the view has changed. */
export function moved() {
  $("view").classList.toggle("zoomed", view.isZoomed);
  redraw("picture", "objects");
}

/** After another picture or scene has come: the stage takes its shape, and is shown empty where there is neither. */
export function arrange() {
  const size = sizeOf(stage);
  $("stage").classList.toggle("empty", !size);
  $("hint").hidden = Boolean(size);
  $("tools").hidden = !stage.scene;
  $("found").hidden = !size;
  $("view").tabIndex = stage.scene ? 0 : -1;
  $("stage").style.setProperty("--shape", size ? size.width / size.height : 4 / 3);
  fit();
}

/** After the stage has another size. */
export function fit() {
  const { clientWidth, clientHeight } = $("stage");
  for (const { canvas } of layers) {
    canvas.width = Math.round(clientWidth * devicePixelRatio);
    canvas.height = Math.round(clientHeight * devicePixelRatio);
  }
  const size = sizeOf(stage);
  if (size) view.resize(size, clientWidth, clientHeight);
  moved();
}

export const look = () => ({ masks: $("masks").checked, boxes: $("boxes").checked, labels: $("labels").checked });

function draw() {
  const { picture, scene, marked } = stage, ratio = devicePixelRatio;
  const at = { scale: view.scale * ratio, x: view.x * ratio, y: view.y * ratio };
  if (isStale.picture && (picture ?? scene)) drawPicture(layers[0], picture, sizeOf(stage), at);
  if (isStale.objects && scene) drawObjects(layers[1], scene, at, { ...look(), marked, unit: ratio });
  isStale.picture = isStale.objects = false;
}

const sizeOf = ({ picture, scene }) => scene ?? picture;
