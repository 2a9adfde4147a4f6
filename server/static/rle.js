/* COCO's run-length encoding. A mask's pixels are counted down its columns, from the left one to the right one. */

/** Where the runs of set pixels begin and end, as [begin, end, begin, end, ...], from the compressed `counts`. */
export function runsOf(counts) {
  const lengths = [], bounds = [];
  let position = 0;
  for (let at = 0; at < counts.length;) {
    let value = 0, shift = 0, code;
    do {
      code = counts.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value -= 2 ** shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    position += value;
    lengths.push(value);
    bounds.push(position);
  }
  if (bounds.length % 2) bounds.pop(); // the last run is of pixels that are not set
  return bounds;
}

/** Whether the pixel at this position is set: it is where an odd number of bounds lies at or before it. */
export function isSet(bounds, position) {
  let low = 0, high = bounds.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bounds[middle] <= position) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** Calls `visit(x, bounds)` for each column that has set pixels: the rows where its runs begin and end, rising. */
export function eachColumn(bounds, height, visit) {
  let column = -1, rows = [];
  for (let k = 0; k < bounds.length; k += 2) {
    for (let begin = bounds[k]; begin < bounds[k + 1];) {
      const x = Math.floor(begin / height), top = x * height;
      const end = Math.min(bounds[k + 1], top + height);
      if (x !== column) {
        if (rows.length) visit(column, rows);
        column = x;
        rows = [];
      }
      if (rows.at(-1) === begin - top) rows.pop(); // goes on where the last one ended
      else rows.push(begin - top);
      rows.push(end - top);
      begin = end;
    }
  }
  if (rows.length) visit(column, rows);
}
