// The part of a drawing that is a picture: ink white on black.

const MOST_SIDE = 1024;
const images = new Map(); // by their base64; the few that were loaded last

export async function load(raster) {
  if (!raster) return;
  let image = images.get(raster);
  if (!image) {
    image = new Image();
    image.src = `data:image/png;base64,${raster}`;
    await image.decode();
  }
  images.delete(raster);
  images.set(raster, image);
  for (const old of [...images.keys()].slice(0, -8)) images.delete(old);
}

// The picture as a canvas, with what was rubbed out of it black again.
function cleaned(drawing) {
  const image = images.get(drawing.raster);
  if (!image) return null;
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  pen.strokeStyle = "black";
  pen.lineCap = pen.lineJoin = "round";
  for (const { path, radius } of drawing.erased) {
    pen.beginPath();
    pen.lineWidth = 2 * radius * canvas.height;
    path.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x * canvas.width, y * canvas.height));
    if (path.length === 1) pen.lineTo(path[0][0] * canvas.width, path[0][1] * canvas.height);
    pen.stroke();
  }
  return canvas;
}

const base64 = (canvas) => canvas.toDataURL("image/png").split(",")[1];

// The drawing as it is sent: nothing left to rub out.
export function settled(drawing) {
  const { erased, ...sketch } = drawing;
  const canvas = erased.length ? cleaned(drawing) : null;
  return canvas ? { ...sketch, raster: base64(canvas) } : sketch;
}

// The picture in the middle of a larger canvas, of whose sides it takes the `share`.
export async function laid(drawing, [across, down]) {
  if (!drawing.raster) return null;
  await load(drawing.raster);
  const inner = cleaned(drawing);
  const width = inner.width / across;
  const height = inner.height / down;
  const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
  const outer = document.createElement("canvas");
  outer.width = Math.round(width * scale);
  outer.height = Math.round(height * scale);
  const pen = outer.getContext("2d");
  pen.fillRect(0, 0, outer.width, outer.height);
  const [w, h] = [inner.width * scale, inner.height * scale];
  pen.drawImage(inner, (outer.width - w) / 2, (outer.height - h) / 2, w, h);
  const raster = base64(outer);
  await load(raster);
  return raster;
}

// Ink in one colour on nothing, to be shown; the last one is kept, since every stroke paints the paper anew.
let shown = { raster: null, erased: null, canvas: null };

export function inked(drawing, [red, green, blue]) {
  if (shown.raster === drawing.raster && shown.erased === drawing.erased) return shown.canvas;
  const canvas = cleaned(drawing);
  if (!canvas) return null;
  const pen = canvas.getContext("2d");
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  const values = pixels.data;
  for (let i = 0; i < values.length; i += 4) {
    values[i + 3] = values[i];
    values[i] = red;
    values[i + 1] = green;
    values[i + 2] = blue;
  }
  pen.putImageData(pixels, 0, 0);
  shown = { raster: drawing.raster, erased: drawing.erased, canvas };
  return canvas;
}
