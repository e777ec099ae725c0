// Drawings as values: {name, aspect, strokes, raster} as sketches travel, x and y from 0 to 1 over the canvas, `raster`
// ink white on black as a PNG in base64; and `erased`, the paths that were rubbed out of the raster. Nothing here changes
// a drawing: it makes a new one.

export const LINE_WIDTH = 1.5 / 64; // of the longer side: a stroke without a width of its own

export const blank = (aspect = 1) => ({ name: "", aspect, strokes: [], raster: null, erased: [] });

export const isBlank = (drawing) => !drawing.strokes.length && !drawing.raster;

// Whether what a browser has kept can be drawn on.
export const isSound = (one) => Array.isArray(one?.strokes) && Array.isArray(one.erased) && one.aspect > 0;

// Whether two drawings have the very same strokes and the same picture.
export const same = (one, other) =>
  one.raster === other.raster &&
  one.erased.length === other.erased.length &&
  one.strokes.length === other.strokes.length &&
  one.strokes.every((stroke, i) => stroke === other.strokes[i]);

export const adding = (drawing, ...strokes) => ({ ...drawing, strokes: [...drawing.strokes, ...strokes] });

export const mirrored = (points) => points.map(([x, y]) => [1 - x, y]);

const rounded = (value) => Math.round(value * 1e5) / 1e5;

export function stroke(points, { width = null, weight = 1 } = {}) {
  return { points: points.map(([x, y]) => [rounded(x), rounded(y)]), width, weight, closed: false };
}

// The strokes without what lies nearer than `radius`, a part of the height, to the path of an eraser; lines are cut
// there, so far off that their round ends do not fill it again.
export function without(strokes, path, radius, aspect) {
  const reach = box(path);
  return strokes.flatMap((one) => {
    const far = radius + ((one.width ?? LINE_WIDTH) * Math.max(1, aspect)) / 2;
    if (apart(reach, box(one.points), far / aspect, far)) return [one];
    const near = nearTo(path, far, aspect);
    const points = dense(one.closed ? [...one.points, one.points[0]] : one.points, radius / 4, aspect);
    const hit = points.map(near);
    if (!hit.includes(true)) return [one];
    const left = [];
    let part = [];
    points.forEach((point, i) => {
      if (!hit[i]) part.push(point);
      if ((hit[i] || i === points.length - 1) && part.length) {
        left.push({ ...one, ...stroke(part, one) });
        part = [];
      }
    });
    return left;
  });
}

// A drawing of whose strokes these are left, and whose picture the paths of an eraser went over.
export function rubbedOut(drawing, strokes, paths, radius) {
  const erased = drawing.raster ? [...drawing.erased, ...paths.map((path) => ({ path: [...path], radius }))] : [];
  return { ...drawing, strokes, erased };
}

// [left, top, right, bottom]
function box(points) {
  const all = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    all[0] = Math.min(all[0], x);
    all[1] = Math.min(all[1], y);
    all[2] = Math.max(all[2], x);
    all[3] = Math.max(all[3], y);
  }
  return all;
}

const apart = (one, other, across, down) =>
  one[0] - across > other[2] || other[0] - across > one[2] || one[1] - down > other[3] || other[1] - down > one[3];

function nearTo(path, radius, aspect) {
  return ([x, y]) =>
    path.some(([ax, ay], i) => {
      const [bx, by] = path[i + 1] ?? path[i];
      const dx = (bx - ax) * aspect;
      const dy = by - ay;
      const px = (x - ax) * aspect;
      const py = y - ay;
      const along = Math.min(1, Math.max(0, (px * dx + py * dy) / (dx * dx + dy * dy || 1)));
      return Math.hypot(px - along * dx, py - along * dy) <= radius;
    });
}

// The same line with no gap between points longer than `gap`.
function dense(points, gap, aspect) {
  const all = points.slice(0, 1);
  for (let i = 1; i < points.length; i++) {
    const [ax, ay] = points[i - 1];
    const [bx, by] = points[i];
    const parts = Math.max(1, Math.ceil(Math.hypot((bx - ax) * aspect, by - ay) / gap));
    for (let k = 1; k <= parts; k++) all.push([ax + ((bx - ax) * k) / parts, ay + ((by - ay) * k) / parts]);
  }
  return all;
}

// How much of each side of a canvas of `aspect` a drawing takes in its middle, as large as it fits.
export function share(drawing, aspect) {
  const height = Math.max(1, drawing.aspect / aspect);
  return [drawing.aspect / (aspect * height), 1 / height];
}

// The strokes of a drawing where they are then.
export function moved(strokes, [across, down]) {
  const at = ([x, y]) => [rounded((x - 0.5) * across + 0.5), rounded((y - 0.5) * down + 0.5)];
  return strokes.map((one) => ({ ...one, points: one.points.map(at) }));
}

export function toSvg(drawing) {
  const height = 1000;
  const width = Math.round(height * drawing.aspect);
  const usual = LINE_WIDTH * Math.max(width, height);
  const lines = drawing.strokes.map((one) => {
    const at = (p) => `${(p[0] * width).toFixed(1)} ${(p[1] * height).toFixed(1)}`;
    const rest = one.points.length > 1 ? one.points.slice(1) : one.points;
    const path = `M${at(one.points[0])}L${rest.map(at).join(" ")}${one.closed ? "Z" : ""}`;
    const wide = one.width === null ? "" : ` stroke-width="${((one.width / LINE_WIDTH) * usual).toFixed(2)}"`;
    const weight = one.weight === 1 ? "" : ` data-weight="${one.weight}"`;
    return `  <path d="${path}"${wide}${weight}/>`;
  });
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" fill="none" stroke="black"`;
  const wide = usual.toFixed(2);
  const style = ` stroke-width="${wide}" data-usual-width="${wide}" stroke-linecap="round" stroke-linejoin="round">`;
  return `${open}${style}\n${lines.join("\n")}\n</svg>\n`;
}

// What can be undone and done again.
export class Past {
  constructor(now, most = 300) {
    this.states = [now];
    this.at = 0;
    this.most = most;
  }
  get now() {
    return this.states[this.at];
  }
  get canUndo() {
    return this.at > 0;
  }
  get canRedo() {
    return this.at < this.states.length - 1;
  }
  add(state) {
    this.states = [...this.states.slice(0, this.at + 1), state].slice(-this.most);
    this.at = this.states.length - 1;
  }
  undo() {
    this.at = Math.max(0, this.at - 1);
  }
  redo() {
    this.at = Math.min(this.states.length - 1, this.at + 1);
  }
}
