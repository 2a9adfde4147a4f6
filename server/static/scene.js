/* The objects of one answer. What their masks need is worked out when it is first asked for: many are never shown. */

import { pathOf, ringsOf } from "./outline.js";
import { isSet, runsOf } from "./rle.js";

/** How far, in pixels of the display, a drawn outline may be from the mask's. */
const TOLERANCE = 0.5;
/** A mask's pixels lie within so many of its box. */
const SLACK = 2;

class Found {
  #bounds = null;
  #rings = null;
  #paths = new Map();

  constructor(detection, index) {
    const { box, class_id: classId, class_name: className, score, area, mask } = detection;
    Object.assign(this, { index, box, classId, className, score, area, mask });
  }

  /** The mask's outline in pixels of the picture, for a display that draws each of them `scale` pixels wide. */
  path(scale) {
    const level = scale < 1 ? Math.ceil(Math.log2(scale)) : 1;
    if (!this.#paths.has(level)) {
      this.#rings ??= ringsOf(this.#runs(), this.mask.size[0]);
      this.#paths.set(level, pathOf(this.#rings, level > 0 ? 0 : TOLERANCE / 2 ** level));
    }
    return this.#paths.get(level);
  }

  contains(x, y) {
    const [x1, y1, x2, y2] = this.box, [height, width] = this.mask.size;
    if (x < x1 - SLACK || x > x2 + SLACK || y < y1 - SLACK || y > y2 + SLACK) return false;
    if (x < 0 || y < 0 || x >= width || y >= height) return false;
    return isSet(this.#runs(), Math.floor(x) * height + Math.floor(y));
  }

  #runs() {
    return (this.#bounds ??= runsOf(this.mask.counts));
  }
}

export class Scene {
  /** `image` is one of an answer's `images`. */
  constructor({ width, height, detections }) {
    Object.assign(this, { width, height, objects: detections.map((detection, k) => new Found(detection, k)) });
    const classes = new Map(this.objects.map((object) => [object.classId, object.className]));
    /** Those that have objects, as { id, name }, in the model's order. */
    this.classes = [...classes].map(([id, name]) => ({ id, name })).sort((a, b) => a.id - b.id);
    this.byClass = this.classes.length > 1;
    this.threshold = 0;
    this.hidden = new Set();
  }

  passes(object) {
    return object.score >= this.threshold;
  }

  /** By falling score. */
  get shown() {
    return this.objects.filter((object) => this.passes(object) && !this.hidden.has(object.classId));
  }

  /** How many objects of the class the threshold lets through, shown or not. */
  count(classId) {
    return this.objects.filter((object) => object.classId === classId && this.passes(object)).length;
  }

  /** The smallest shown object at a place of the picture: a larger one can be pointed at beside it. */
  at(x, y) {
    const there = this.shown.filter((object) => object.contains(x, y));
    return there.reduce((least, object) => (least && least.area <= object.area ? least : object), null);
  }

  colour(object) {
    return this.byClass ? classColour(object.classId) : spread(object.index);
  }
}

export const classColour = (id) => spread(id - 1);

/** Steps of the golden angle keep neighbours apart; OKLCH keeps all of them about as light. */
function spread(index) {
  return `oklch(${index % 2 ? 0.72 : 0.8} 0.17 ${(185 + index * 137.508) % 360})`;
}
