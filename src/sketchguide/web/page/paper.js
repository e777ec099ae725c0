// The canvas that is drawn on: pointers in, strokes out.

import { LINE_WIDTH, adding, mirrored, rubbedOut, same, stroke, without } from "./strokes.js";
import { inked } from "./raster.js";

const INK = [29, 29, 27];
const FIRM = [20, 70, 190];
const NEAREST = 0.002; // between two points of a line
const HALF = 0.5; // the pressure at which a line binds as usual
const GESTURE = 300; // ms between two fingers that come down together
const RESTING = 0.02; // of the paper: a finger that went less far has drawn nothing yet
const PEN_RULES = 600; // ms after a pen was seen, in which a touch is a palm
const PEN_USED = 60000; // and in which a touch that the system takes back was one

// `places` are those parts of the canvas, as shares of its sides, on each of which the drawing is painted.
export function paint(canvas, drawing, places = [{ left: 0, top: 0, across: 1, down: 1 }]) {
  const box = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  for (const { left, top, across, down } of places) {
    pen.save();
    pen.translate(left * width, top * height);
    paintWithin(pen, drawing, across * width, down * height);
    pen.restore();
  }
}

function paintWithin(pen, drawing, width, height) {
  pen.beginPath();
  pen.rect(0, 0, width, height);
  pen.clip();
  const raster = drawing.raster && inked(drawing, INK);
  if (raster) pen.drawImage(raster, 0, 0, width, height);
  pen.lineCap = pen.lineJoin = "round";
  for (const one of drawing.strokes) {
    const [red, green, blue] = one.weight > 1 ? FIRM : INK;
    pen.strokeStyle = `rgb(${red} ${green} ${blue} / ${one.weight < 1 ? 0.25 + 0.5 * one.weight : 1})`;
    pen.lineWidth = Math.max(1, (one.width ?? LINE_WIDTH) * Math.max(width, height));
    pen.beginPath();
    one.points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x * width, y * height));
    if (one.points.length === 1) pen.lineTo(one.points[0][0] * width, one.points[0][1] * height);
    if (one.closed) pen.closePath();
    pen.stroke();
  }
}

export class Paper {
  // `tool(kind)` says what is in hand, or would be: {kind, size, weight, mirror, pressure}; `drawn(drawing)` is told of every finished
  // stroke.
  constructor(canvas, { drawing, tool, drawn }) {
    Object.assign(this, { canvas, drawing, tool, drawn });
    this.pointer = null;
    this.path = [];
    this.pressed = []; // how hard, where a pen says so
    this.cut = null; // what an eraser has left so far
    this.penSeen = -Infinity;
    this.touches = new Set(); // that are down, drawing or not, and beside the paper too
    for (const kind of ["pointerdown", "pointerup", "pointercancel"]) {
      window.addEventListener(kind, (event) => event.pointerType === "touch" && this.#touched(event), true);
    }
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    // What was drawn until then stays, whoever takes the pointer away.
    canvas.addEventListener("pointercancel", (event) => this.#cancelled(event));
    canvas.addEventListener("lostpointercapture", (event) => this.#up(event));
    window.addEventListener("blur", () => this.finish());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    new ResizeObserver(() => this.show()).observe(canvas);
  }

  set(drawing) {
    this.drawing = drawing;
    this.cut = null; // it is of the drawing before
    this.show();
  }

  get busy() {
    return this.pointer !== null;
  }

  // The drawing with the stroke that is being drawn.
  get now() {
    if (!this.path.length) return this.drawing;
    const { kind, size, mirror } = this.held;
    const paths = mirror ? [this.path, mirrored(this.path)] : [this.path];
    if (kind === "eraser") return this.#erased(paths, 0.02 * size);
    const width = size === 1 ? null : LINE_WIDTH * size;
    return adding(this.drawing, ...paths.map((path) => stroke(path, { width, weight: this.#weight })));
  }

  // Only what the path has gone since the last time is looked for: the rest is cut already.
  #erased(paths, radius) {
    const { from, strokes } = this.cut ?? { from: 0, strokes: this.drawing.strokes };
    const left = paths.reduce((one, path) => without(one, path.slice(from), radius, this.drawing.aspect), strokes);
    this.cut = { from: this.path.length - 1, strokes: left };
    return rubbedOut(this.drawing, left, paths, radius);
  }

  get #weight() {
    const { weight, pressure } = this.held;
    if (!pressure || !this.pressed.length) return weight;
    const mean = this.pressed.reduce((sum, one) => sum + one, 0) / this.pressed.length;
    return Math.round(weight * Math.min(2, Math.max(0.2, mean / HALF)) * 100) / 100;
  }

  show() {
    paint(this.canvas, this.now);
    if (this.path.length && this.held.kind === "eraser") this.#showEraser();
  }

  finish() {
    if (!this.busy) return;
    const [before, now] = [this.drawing, this.now];
    this.#drop();
    this.drawing = now;
    this.show();
    if (!same(before, now)) this.drawn(now); // an eraser may have met nothing
  }

  #drop() {
    this.canvas.style.touchAction = "";
    this.pointer = null;
    this.path = [];
    this.cut = null;
  }

  // Before the paper itself hears of it.
  #touched(event) {
    if (event.type !== "pointerdown") {
      this.touches.delete(event.pointerId);
      return;
    }
    if (event.isPrimary) this.touches.clear(); // of those before the end was not told
    const others = this.touches.size > 0;
    this.touches.add(event.pointerId);
    if (others && this.busy && this.by === "touch" && (event.timeStamp - this.since < GESTURE || this.#rests)) {
      this.#drop(); // they want to scroll or to zoom
      this.show();
    }
  }

  #down(event) {
    if (event.pointerType === "pen") this.penSeen = event.timeStamp;
    const touch = event.pointerType === "touch";
    const palm = touch && event.timeStamp - this.penSeen < PEN_RULES;
    if (event.pointerType === "pen" && this.busy && this.by === "touch") this.#drop(); // the palm came first
    const fingers = touch && this.touches.size > 1;
    if (this.busy || palm || fingers || (event.pointerType === "mouse" && event.button !== 0)) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.by = event.pointerType;
    this.since = event.timeStamp;
    this.held = event.pointerType === "pen" && event.button === 5 ? this.tool("eraser") : this.tool();
    this.pressed = [];
    if (event.pointerType === "pen") this.canvas.style.touchAction = "none"; // a hand that rests there zooms nothing
    this.#take(event);
    this.show();
  }

  get #rests() {
    const [[left, top]] = this.path;
    return this.path.every(([x, y]) => Math.hypot(x - left, y - top) < RESTING);
  }

  #move(event) {
    if (event.pointerType === "pen") this.penSeen = event.timeStamp;
    if (event.pointerId !== this.pointer) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const one of all.length ? all : [event]) this.#take(one);
    this.show();
  }

  #up(event) {
    if (event.pointerId === this.pointer) this.finish();
  }

  // Where a pen comes near, the system takes the touch of the hand back.
  #cancelled(event) {
    if (event.pointerType === "touch" && event.timeStamp - this.penSeen < PEN_USED && event.pointerId === this.pointer) {
      this.#drop();
      this.show();
    }
    this.#up(event);
  }

  #take(event) {
    const box = this.canvas.getBoundingClientRect();
    const point = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (event.pointerType === "pen") this.pressed.push(event.pressure);
    const last = this.path.at(-1);
    if (!last || Math.hypot(point[0] - last[0], point[1] - last[1]) >= NEAREST) this.path.push(point);
  }

  #showEraser() {
    const pen = this.canvas.getContext("2d");
    const [x, y] = this.path.at(-1);
    pen.strokeStyle = "#888";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.arc(x * this.canvas.width, y * this.canvas.height, 0.02 * this.held.size * this.canvas.height, 0, 7);
    pen.stroke();
  }
}
