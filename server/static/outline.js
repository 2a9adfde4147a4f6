/* From a mask's runs to the rings around it: exact at the pixel's edges, and with fewer corners for small displays. */

import { eachColumn } from "./rle.js";

/**
 * The rings [x, y, x, y, ...] around the set pixels and around the holes, to be filled by the even-odd rule.
 *
 * Every corner has one vertical and one horizontal edge. Those on a grid line between two columns are the rows where
 * exactly one of the columns begins or ends a run; taken in pairs they are its vertical edges. A row's corners, from
 * left to right in pairs, are its horizontal edges.
 */
export function ringsOf(bounds, height) {
  const xs = [], ys = [], across = [], open = new Map();
  const addLine = (x, left, right) => {
    for (const y of inOneOnly(left, right)) {
      const corner = xs.push(x) - 1, other = open.get(y);
      ys.push(y);
      if (other === undefined) open.set(y, corner);
      else {
        open.delete(y);
        across[corner] = other;
        across[other] = corner;
      }
    }
  };
  let previous = [], next = 0;
  eachColumn(bounds, height, (x, rows) => {
    if (x > next) { // a column without set pixels lies between
      addLine(next, previous, []);
      previous = [];
    }
    addLine(x, previous, rows);
    previous = rows;
    next = x + 1;
  });
  addLine(next, previous, []);
  return linked(xs, ys, across);
}

/** Numbers that only one of two rising lists holds, rising. */
function inOneOnly(a, b) {
  const found = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (a[i] === b[j]) i++, j++;
    else if (j === b.length || a[i] < b[j]) found.push(a[i++]);
    else found.push(b[j++]);
  }
  return found;
}

/** Rings of the corners: down or up a vertical edge, whose ends are neighbours in the list, then along a row. */
function linked(xs, ys, across) {
  const rings = [], seen = new Uint8Array(xs.length);
  for (let start = 0; start < xs.length; start++) {
    if (seen[start]) continue;
    const ring = [];
    for (let corner = start; !seen[corner]; corner = across[corner ^ 1]) {
      seen[corner] = seen[corner ^ 1] = 1;
      ring.push(xs[corner], ys[corner], xs[corner ^ 1], ys[corner ^ 1]);
    }
    rings.push(ring);
  }
  return rings;
}

/** A path of the rings that is nowhere further than `tolerance` from them (Douglas and Peucker). */
export function pathOf(rings, tolerance) {
  const path = new Path2D();
  for (const ring of rings) {
    const kept = tolerance > 0 ? simplified(ring, tolerance) : ring;
    path.moveTo(kept[0], kept[1]);
    for (let k = 2; k < kept.length; k += 2) path.lineTo(kept[k], kept[k + 1]);
    path.closePath();
  }
  return path;
}

function simplified(ring, tolerance) {
  const count = ring.length / 2, isKept = new Uint8Array(count + 1);
  const closed = [...ring, ring[0], ring[1]];
  const middle = farthest(closed, 0, count).index;
  isKept[0] = isKept[middle] = 1;
  const spans = [[0, middle], [middle, count]];
  while (spans.length) {
    const [first, last] = spans.pop();
    const { index, distance } = farthest(closed, first, last);
    if (distance <= tolerance) continue;
    isKept[index] = 1;
    spans.push([first, index], [index, last]);
  }
  return ring.filter((_, k) => isKept[k >> 1]);
}

/** The corner between two others that is farthest from the line through them; from the point where both are one. */
function farthest(points, first, last) {
  const x = points[2 * first], y = points[2 * first + 1];
  const dx = points[2 * last] - x, dy = points[2 * last + 1] - y, length = Math.hypot(dx, dy);
  let index = first, distance = -1;
  for (let k = first + 1; k < last; k++) {
    const px = points[2 * k] - x, py = points[2 * k + 1] - y;
    const far = length ? Math.abs(px * dy - py * dx) / length : Math.hypot(px, py);
    if (far > distance) [index, distance] = [k, far];
  }
  return { index, distance };
}
