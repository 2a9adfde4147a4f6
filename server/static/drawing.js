/* What is seen: the picture on one canvas, its objects on another over it, both at the display's own pixels. */

const FILL = 0.36, STRONG_FILL = 0.6, BOX = 0.6;
/** More objects than this are a crowd: labels get short. */
const CROWD = 25;
/** A phone's browser gives a canvas no more pixels than this. */
const MOST_PIXELS = 16e6;
/** Pixels of the copy that is drawn where the picture is shown small. */
const SMALL_PIXELS = 2e6;

/** The file as the browser shows it, turned as its EXIF data say, or null where the browser cannot read it. */
export async function decoded(blob) {
  const whole = await createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => null);
  if (!whole) return null;
  const { width, height } = whole;
  const full = await shrunk(whole, MOST_PIXELS);
  if (full !== whole) whole.close();
  return { width, height, full, small: await shrunk(full, SMALL_PIXELS) };
}

/** Gives back at once what the browser would keep until it tidies up: 4 bytes a pixel. */
export function release(picture) {
  picture?.full.close();
  picture?.small.close();
}

async function shrunk(bitmap, pixels) {
  const part = Math.sqrt(pixels / (bitmap.width * bitmap.height));
  if (part >= 1) return bitmap;
  const resizeWidth = Math.max(1, Math.round(bitmap.width * part));
  const resizeHeight = Math.max(1, Math.round(bitmap.height * part));
  return createImageBitmap(bitmap, { resizeWidth, resizeHeight, resizeQuality: "medium" });
}

/** `at` is { scale, x, y } in pixels of the canvas. Without a picture, grey where it would be. */
export function drawPicture(context, picture, { width, height }, at) {
  clear(context);
  const place = [at.x, at.y, width * at.scale, height * at.scale];
  context.fillStyle = "#7778";
  if (!picture) return context.fillRect(...place);
  const bitmap = picture.small.width >= width * at.scale ? picture.small : picture.full;
  context.imageSmoothingEnabled = at.scale < 4; // closer than that the pixels are what one looks for
  context.imageSmoothingQuality = "medium";
  context.drawImage(bitmap, ...place);
}

/**
 * The scene's shown objects, best on top. `look` is { masks, boxes, labels, marked, unit }: what to draw, the object
 * that stands out, and how many pixels of the canvas a line is wide.
 */
export function drawObjects(context, scene, at, look) {
  clear(context);
  const shown = scene.shown, marked = shown.includes(look.marked) ? look.marked : null;
  const inView = shown.filter((object) => isInView(object, context.canvas, at));
  context.setTransform(at.scale, 0, 0, at.scale, at.x, at.y);
  context.lineWidth = (1.5 * look.unit) / at.scale;
  for (const object of inView.toReversed()) drawObject(context, scene, object, at.scale, look);
  if (marked) drawMarked(context, scene, marked, at.scale, look);
  context.resetTransform();
  if (look.labels) drawLabels(context, scene, inView, at, { ...look, marked });
}

function clear(context) {
  context.resetTransform();
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
}

function isInView({ box: [x1, y1, x2, y2] }, { width, height }, { scale, x, y }) {
  return x2 * scale + x > 0 && x1 * scale + x < width && y2 * scale + y > 0 && y1 * scale + y < height;
}

function drawObject(context, scene, object, scale, { masks, boxes }) {
  context.strokeStyle = context.fillStyle = scene.colour(object);
  if (masks) {
    const path = object.path(scale);
    context.globalAlpha = FILL;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    context.stroke(path);
  }
  if (!boxes) return;
  context.globalAlpha = masks ? BOX : 1;
  strokeBox(context, object);
  context.globalAlpha = 1;
}

function drawMarked(context, scene, object, scale, { masks, unit }) {
  const colour = scene.colour(object), path = object.path(scale);
  if (masks) {
    context.globalAlpha = STRONG_FILL;
    context.fillStyle = colour;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
  }
  for (const [style, width] of [["#000", 5], ["#fff", 3.5], [colour, 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = (width * unit) / scale;
    if (masks) context.stroke(path);
    else strokeBox(context, object);
  }
}

function strokeBox(context, { box: [x1, y1, x2, y2] }) {
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

/** Each where it hides no better object's label and no other object; the marked one's always. */
function drawLabels(context, scene, objects, at, { unit, marked }) {
  context.font = `600 ${11 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const boxes = objects.map(({ box: [x1, y1, x2, y2] }) => ({
    x: x1 * at.scale + at.x, y: y1 * at.scale + at.y, width: (x2 - x1) * at.scale, height: (y2 - y1) * at.scale,
  }));
  const placed = [];
  for (const [k, object] of objects.entries()) {
    const isInCrowd = objects.length > CROWD && object !== marked;
    const text = labelOf(object, scene, isInCrowd);
    const size = { width: context.measureText(text).width + 6 * unit, height: 15 * unit };
    const places = labelPlaces(boxes[k], size, context.canvas, isInCrowd ? 4 : 1.5);
    const isFree = (place) => !placed.some((other) => overlap(place, other))
      && (place.isInside || !boxes.some((box, other) => other !== k && overlap(place, box)));
    const place = places.find(isFree) ?? (object === marked ? places[0] : undefined);
    if (!place) continue;
    placed.push(place);
    drawLabel(context, text, place, scene.colour(object), unit);
  }
}

function drawLabel(context, text, { x, y, width, height }, colour, unit) {
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(x, y, width, height, 3 * unit);
  context.fill();
  context.fillStyle = "#000";
  context.fillText(text, x + 3 * unit, y + height / 2 + 0.5 * unit);
}

/** In a crowd of one class, its name goes without saying. */
function labelOf({ className, score }, { classes }, isInCrowd) {
  return isInCrowd && classes.length === 1 ? score.toFixed(2) : `${className} ${score.toFixed(2)}`;
}

/** Over the box, under it, or in its corner where it is so many times as high; within the canvas. */
function labelPlaces(box, { width, height }, canvas, times) {
  const x = Math.max(0, Math.min(box.x, canvas.width - width));
  const places = [{ x, y: box.y - height, width, height }, { x, y: box.y + box.height, width, height }];
  if (box.height > times * height && box.width > (times / 3) * width) places.push({ x, y: Math.max(0, box.y), width, height, isInside: true });
  return places.filter(({ y }) => y >= 0 && y + height <= canvas.height);
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

/** A PNG of the whole picture with what is shown over it, at the picture's size or the largest that a canvas takes. */
export async function composed(picture, scene, look) {
  const { width, height } = scene, scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const layers = [0, 1].map(() => new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale)));
  const [below, above] = layers.map((layer) => layer.getContext("2d"));
  const at = { scale, x: 0, y: 0 }, unit = Math.max(1, Math.max(...layers.map((l) => Math.max(l.width, l.height))) / 1000);
  drawPicture(below, picture, scene, at);
  drawObjects(above, scene, at, { ...look, marked: null, unit });
  below.resetTransform();
  below.drawImage(layers[1], 0, 0);
  return layers[0].convertToBlob({ type: "image/png" });
}
