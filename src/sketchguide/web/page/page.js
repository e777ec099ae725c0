// The page: what is on it, and what happens when.

import { Past, blank, isBlank, isSound, moved, share, toSvg } from "./strokes.js";
import { Paper, paint } from "./paper.js";
import { laid, load, settled } from "./raster.js";
import * as server from "./server.js";
import { KEPT, forgetPictures, isDue, keepPictures, keptPictures, rememberDue, rememberJob, rememberedJob, saveNow, savedState } from "./store.js";

const $ = (id) => document.getElementById(id);
const PAUSE = 250; // ms after a stroke, before a new picture is asked for
const RETRY = 2000; // ms
const LATE = 1500; // ms until it is said that the page is not ready
const SPOKEN = 5; // seconds of drawing after which a screen reader is told again how far it is
const AWAY = "The server does not answer. The drawing is safe here; trying again …";
const UNREAD = "The server does not answer; open the file again when it is back.";
const UNASKED = "The server does not answer; try again when it is back.";
const UNREADABLE = "it may be a folder, or have been moved. Choose the file itself.";
const UNREADY = "The page is not ready yet; it waits for the server …";
const ANEW = "The server was started anew; the drawing is sent again.";
const NO_FILE = "What was dropped is no file: save it first, then drop or open that file.";
const NO_DRAWING = "What was pasted is no drawing: copy a picture, or the text of an SVG.";
const AHEAD = "The picture is done: it is the first of the earlier ones.";
const PROMPTLESS = "Say what it is, and the picture follows.";
const CLOSENESS = [
  { name: "as usual", settings: {} },
  { name: "loosely: more natural", settings: { strength: 1.4 } },
  { name: "clean lines, to the letter", settings: { widen: 1, strength: 2 } },
  { name: "as closely as it goes", settings: { every: 1, widen: 1, strength: 1.5 } },
  { name: "closely, yet recognisable", settings: { tries: 5, sure: 0.65, widen: 1 } },
];
const ELSEWHERE = ["prompt", "sketch", "seed", "size"]; // settings that have a place of their own on the page
const IMAGE = /^image\/(?!svg)/; // a file of pixels
const TRACED = "trace"; // how a photograph is read
const SVG = /<svg[\s>]/i;
const NO_RECIPE = ["from", "image"]; // fields that are refused of a PNG without a recipe, and of a file that is no PNG

let service;
let about = ""; // what the server said of itself
let closeness = []; // how closely a picture may follow: what `CLOSENESS` names, or where nothing pulls, adapters
let close = []; // the settings among it
let past = new Past(blank());
let paper;
let settings = {}; // what differs from the defaults
let seed = 0;
let shown = null; // what is on display: {pictures: [{url, seed, blob, request}], chosen}
let job = null; // what `ordered` gives
let pause = 0;
let again = 0;
let chain = 0; // which asking again is meant: a new drawing and Stop end those before
let choice = 0; // which drawing is meant to be on the paper: one that was chosen before may come later
let fitting = 0; // likewise, of those that were on it before, or are in another shape
let laying = 0; // likewise, which drawing is meant to lie over the picture
let lines = blank(); // that drawing
let notes = []; // what was said of the file that was opened last
let opened = null; // that file where it is a picture: {file, how}
let promptless = false; // it was said that there is no prompt
let refused = -Infinity; // when a setting was: the click that took the focus from it must not draw over the message
let looking = false; // at another picture than the one that is being made
let warned = ""; // the warnings of a picture that are on display
let closed = ""; // those that were closed: the next strokes bring them again
let history = []; // pictures, the latest last
const thumbnails = new Map(); // their buttons
const sizes = { pen: 1, eraser: 1 };

const drawing = () => paper.now;
const newSeed = () => Math.floor(Math.random() * 1e9);

// --- saying things

function tell(messages, { error = false } = {}) {
  warned = "";
  $("told").replaceChildren(
    ...messages.map((text) => Object.assign(document.createElement("p"), { textContent: text, className: error ? "error" : "" })),
  );
}

function banner(text) {
  if ($("banner").textContent === (text ?? "")) return; // or a screen reader says it again
  $("banner").textContent = text ?? "";
  $("banner").hidden = !text;
}

// What only a screen reader has to be told.
function speak(text) {
  if ($("spoken").textContent !== text) $("spoken").textContent = text;
}

const say = (messages) => tell([...notes, ...messages]);

function note(messages) {
  notes = messages;
  say([]);
}

// What a job warns of; every one of its states has all of it.
function warn(mine, warnings) {
  const now = JSON.stringify(warnings);
  if (!warnings.length || mine.warned === now) return;
  mine.warned = now;
  if (now === closed) return;
  say(warnings);
  warned = now;
}

const failed = (error) => tell([error.message], { error: true });

// --- what is asked for

function request() {
  const [width, height] = size();
  const asked = { prompt: $("prompt").value.trim(), seed, size: [width, height], ...settings };
  if (!isBlank(drawing())) asked.sketch = settled(drawing());
  return asked;
}

const size = () => service.sizes[$("sizes").selectedIndex] ?? service.sizes[0];

const placeOf = (wanted) => service.sizes.findIndex(([w, h]) => w === wanted?.[0] && h === wanted?.[1]);

// A picture from elsewhere may have a shape of its own.
function chooseSize(wanted) {
  if (wanted && placeOf(wanted) < 0) {
    service.sizes.push(wanted);
    $("sizes").append(new Option(`${wanted[0]} × ${wanted[1]}`));
  }
  $("sizes").selectedIndex = Math.max(0, placeOf(wanted));
  reshape();
}

// A job: `made` are its finished pictures, `kept` says when the browser has them.
const ordered = (request, id = null) => ({
  id,
  request,
  abort: new AbortController(),
  made: [],
  gathered: Promise.resolve(),
  kept: Promise.resolve(),
});

function unpause() {
  clearTimeout(pause);
  pause = 0;
}

async function draw() {
  unpause();
  clearTimeout(again);
  chain += 1;
  const prompted = $("prompt").value.trim() !== "";
  rememberDue(prompted);
  if (!prompted) {
    if (!job) {
      busy(false);
      banner(null);
    }
    say([PROMPTLESS]);
    $("prompt").focus();
    return;
  }
  const asked = request();
  const before = job;
  const mine = ordered(asked);
  job = mine;
  looking = false;
  before?.abort.abort();
  busy(true);
  try {
    if (before?.id) server.cancel(before.id).catch(() => {});
    const answer = await server.submit(asked);
    mine.id = answer.id;
    if (job !== mine) {
      server.cancel(answer.id).catch(() => {}); // another one was asked for meanwhile
      return;
    }
    if (answer.service !== service.digest && (await renewed())) {
      if (job === mine) await draw(); // which cancels this one
      else server.cancel(answer.id).catch(() => {});
      return;
    }
    say([]);
    if ($("banner").textContent !== ANEW) banner(null);
    rememberJob(mine.id);
    rememberDue(pause !== 0);
  } catch (error) {
    if (job !== mine) return;
    const passes = server.mayPass(error);
    const otherwise = !passes && (await renewed().catch(() => false));
    if (job !== mine) return;
    job = null;
    if (passes) retry(error.busy ? `${error.message} Trying again …` : AWAY);
    else if (otherwise) await draw();
    else givenUp(error, mine);
    return;
  }
  await watch(mine);
}

function givenUp(error, mine) {
  rememberJob(null);
  rememberDue(pause !== 0);
  banner(null);
  busy(false);
  showLeft(mine);
  failed(error);
}

async function watch(mine) {
  let gone = false;
  const away = (out) => {
    if (job === mine && out !== gone) banner(out ? AWAY : null);
    gone = out;
  };
  const heard = (now) => {
    if (job === mine) progress(now, mine);
    const preview = () => job === mine && !looking && showUnfinished(mine, now.previews);
    gather(now, mine, away).then(preview, () => {}); // the next news asks for them again
  };
  let end;
  try {
    end = await server.follow(mine.id, { told: heard, away, given: mine.abort.signal });
    if (end) await gather(end, mine, away);
  } catch (error) {
    if (job !== mine) return;
    job = null;
    givenUp(error, mine);
    return;
  }
  if (job !== mine) return;
  job = null;
  busy(false);
  const made = mine.made;
  if (end?.state === "done" && made.length === end.pictures.length) {
    warn(mine, end.warnings);
    if (looking) {
      const told = JSON.stringify(end.warnings);
      say([...(told === closed ? [] : end.warnings), AHEAD]);
      warned = end.warnings.length ? told : "";
    } else show(made);
    speak(`Picture done, seed ${made.map(({ seed }) => seed).join(", ")}`);
    await mine.kept;
    if (!job) rememberJob(null); // until then a page that is loaded anew fetches them again
    return;
  }
  rememberJob(null);
  if (end === null || end.state === "done") {
    banner(ANEW);
    setTimeout(() => $("banner").textContent === ANEW && banner(null), 4000);
    retry(AWAY, 0);
  } else if (end.state === "failed") givenUp(new server.Refused(end.error, 0), mine);
  else retry(AWAY, 0); // not cancelled by this page: the server is being stopped, or gave this page up
}

// The pictures of a job that are finished, fetched and kept at once: what comes later takes none of them away.
function gather({ pictures }, mine, away) {
  mine.gathered = mine.gathered
    .catch(() => {})
    .then(async () => {
      const more = pictures.slice(mine.made.length);
      if (!more.length) return;
      const made = await server.untilThere(() => collected(more, mine.request), { away, given: mine.abort.signal });
      if (!made) return; // the server has forgotten them
      mine.made.push(...made);
      const keeping = remember(made.filter((one) => !history.includes(one)));
      mine.kept = mine.kept.then(() => keeping);
    });
  return mine.gathered;
}

// Ask again as soon as the server takes drawings. One chain only, which a new drawing or Stop ends.
function retry(text, after = RETRY) {
  clearTimeout(again);
  rememberDue(true);
  busy(true);
  const mine = ++chain;
  again = setTimeout(async () => {
    try {
      await server.ready();
      if (chain === mine) await renewed();
    } catch (error) {
      if (chain !== mine) return;
      if (server.mayPass(error)) {
        banner(text);
        retry(text);
      } else {
        rememberDue(false);
        busy(false);
        banner(error.message); // it asks for another token, say
      }
      return;
    }
    if (chain !== mine) return;
    await draw();
  }, after);
  if (after) banner(text);
}

function stop() {
  unpause();
  clearTimeout(again);
  chain += 1;
  const before = job;
  if (before?.id) server.cancel(before.id).catch(() => {});
  job = null;
  before?.abort.abort();
  rememberJob(null);
  rememberDue(false);
  banner(null);
  busy(false);
  showLeft(before);
  looking = false;
}

function busy(now) {
  $("stop").disabled = !now;
  $("progress").hidden = !now;
  if (now) {
    speak("");
    $("progress").removeAttribute("value");
    $("status").textContent = "…";
  } else $("status").textContent = "";
}

function progress(now, mine) {
  if (now.state === "waiting") {
    $("status").textContent = now.ahead > 1 ? `${now.ahead - 1} before this one` : "next";
    speak($("status").textContent);
    return;
  }
  if (now.total) {
    $("progress").value = now.done / now.total;
    const left = (now.seconds / Math.max(1, now.done)) * (now.total - now.done);
    $("status").textContent = `step ${now.done} of ${now.total}${left > 2 ? `, ${time(left)} left` : ""}`;
    if (now.seconds >= (mine.spoken ?? 0) + SPOKEN) {
      mine.spoken = now.seconds;
      speak($("status").textContent);
    }
  }
  warn(mine, now.warnings);
}

// The finished pictures of a job beside what there is of those to come. None can be saved here yet: below, one can be chosen.
function showUnfinished({ made, request }, previews) {
  if (!made.length && !previews.length) return;
  tiles([...made, ...previews.map((url) => ({ url }))]);
  markShown(null);
  $("save").hidden = $("takeup").hidden = true;
  if (request) overlay(request);
}

const time = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

// Pictures of a job. `asked` is null where this page was loaded anew meanwhile: they say what was asked for, and some may
// have been kept before.
const collected = (pictures, asked) =>
  Promise.all(
    pictures.map(async ({ url: from, seed }) => {
      const kept = history.find((one) => one.from === from);
      if (kept) return kept;
      const blob = await server.picture(from);
      const request = asked ?? (await server.readRecipe(blob)).request;
      return { blob, seed, from, request: { ...request, seed, count: 1 }, url: URL.createObjectURL(blob) };
    }),
  );

// --- pictures

function tiles(pictures, chosen = -1) {
  const columns = Math.ceil(Math.sqrt(pictures.length));
  $("pictures").style.gridTemplate = `repeat(${Math.ceil(pictures.length / columns)}, 1fr) / repeat(${columns}, 1fr)`;
  $("pictures").replaceChildren(
    ...pictures.map(({ url, seed }, i) => {
      const image = Object.assign(document.createElement("img"), { src: url, alt: seed === undefined ? "" : `seed ${seed}` });
      if (pictures.length === 1 || chosen < 0) return image;
      const button = document.createElement("button");
      button.type = "button";
      button.className = i === chosen ? "chosen" : "";
      button.ariaPressed = i === chosen;
      button.title = `seed ${seed}`;
      button.append(image);
      button.onclick = () => {
        show(pictures, i);
        $("pictures").children[i].focus(); // all of them are new
      };
      return button;
    }),
  );
}

function show(pictures, chosen = 0) {
  for (const old of shown?.pictures ?? []) if (!pictures.includes(old) && !history.includes(old)) URL.revokeObjectURL(old.url);
  shown = { pictures, chosen };
  tiles(pictures, chosen);
  const one = pictures[chosen];
  markShown(one);
  overlay(one.request);
  $("save").hidden = $("takeup").hidden = false;
  $("save").href = one.url;
  $("save").download = `${one.request.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "picture"}-${one.seed}.png`;
  $("takeup").onclick = () => takeUp(one.request);
}

// Which of the earlier pictures is on display.
function markShown(shown) {
  for (const [one, button] of thumbnails) button.ariaCurrent = one === shown ? "true" : null;
}

// What there is of a job that ended before its time; else what was on display before, since a preview is no picture.
function showLeft(mine) {
  if (mine?.made.length && !looking) show(mine.made);
  else if (shown) show(shown.pictures, shown.chosen);
  else tiles([]);
}

// Its lines over a picture, in the shape of that.
async function overlay({ sketch, size: wanted }) {
  const mine = ++laying;
  const shape = wanted ? wanted[0] / wanted[1] : aspect();
  const one = await fitted({ ...blank(shape), ...(sketch ?? {}), erased: [] }, shape).catch(() => blank(shape));
  await load(paper.drawing.raster); // which those of many earlier pictures would push out
  if (mine !== laying) return;
  lines = one;
  $("result").style.setProperty("--aspect", shape);
  paintLines();
}

// Over every picture that is on display.
function paintLines() {
  const sheet = $("lines").getBoundingClientRect();
  const places = [...$("pictures").querySelectorAll("img")].map((image) => {
    const tile = image.getBoundingClientRect();
    const [width, height] = [Math.min(tile.width, tile.height * lines.aspect), Math.min(tile.height, tile.width / lines.aspect)];
    return {
      left: (tile.left + (tile.width - width) / 2 - sheet.left) / sheet.width,
      top: (tile.top + (tile.height - height) / 2 - sheet.top) / sheet.height,
      across: width / sheet.width,
      down: height / sheet.height,
    };
  });
  paint($("lines"), lines, places);
}

// Among the earlier pictures at once, and kept for later visits.
async function remember(made) {
  if (!made.length) return;
  history.push(...made);
  for (const old of history.splice(0, Math.max(0, history.length - KEPT))) dismiss(old);
  showHistory();
  try {
    const ids = await keepPictures(made.map(({ request, blob, seed, from }) => ({ request, blob, seed, from })));
    made.forEach((one, i) => (one.id = ids[i]));
    await forgetPictures(made.filter((one) => !history.includes(one))); // they were forgotten meanwhile
    $("fleeting").hidden = true;
  } catch {
    $("fleeting").hidden = false;
  }
}

function dismiss(one) {
  if (!shown?.pictures.includes(one) && !job?.made.includes(one)) URL.revokeObjectURL(one.url);
}

// The latest first. Buttons that are there already stay: one of them may have the keyboard.
function showHistory() {
  for (const [one, button] of thumbnails) {
    if (history.includes(one)) continue;
    button.remove();
    thumbnails.delete(one);
  }
  for (const one of history) {
    if (thumbnails.has(one)) continue;
    thumbnails.set(one, thumbnail(one));
    $("history").prepend(thumbnails.get(one));
  }
  $("forget").hidden = !history.length;
}

function thumbnail(one) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.title = `${one.request.prompt}, seed ${one.seed}`;
  button.append(Object.assign(document.createElement("img"), { src: one.url, alt: button.title }));
  button.onclick = () => {
    looking = job !== null;
    show([one]);
  };
  return button;
}

async function takeUp({ sketch, prompt, seed: given, size: wanted, ...rest }, mine) {
  stop();
  note([]);
  offer(null);
  $("prompt").value = prompt;
  chooseSeed(given);
  chooseSize(wanted);
  settings = known(rest);
  showSettings();
  await take({ ...blank(aspect()), ...(sketch ?? {}), erased: [] }, mine);
}

// --- the drawing

const aspect = () => size()[0] / size()[1];

async function take(given, mine = ++choice) {
  const one = await fitted(given);
  if (mine !== choice) return;
  fitting += 1;
  past.add(one);
  paper.set(one);
  changed();
}

async function fitted(given, shape = aspect()) {
  await load(given.raster);
  if (Math.abs(given.aspect - shape) < 1e-6) return given;
  const part = share(given, shape);
  const strokes = moved(given.strokes, part);
  return { ...given, aspect: shape, strokes, raster: await laid(given, part), erased: [] };
}

// On the paper as it is in the past, in the shape that is chosen now: there and back changes nothing.
async function putPast() {
  const mine = ++fitting;
  const one = await fitted(past.now);
  if (mine !== fitting) return;
  paper.set(one);
  changed();
}

function changed() {
  buttons();
  nameDrawing();
  save();
}

// What is on the paper, for whoever does not see it.
function nameDrawing() {
  const { strokes, raster } = paper.drawing;
  const lines = `${strokes.length} ${strokes.length === 1 ? "line" : "lines"}`;
  const parts = [raster ? "a picture" : "", strokes.length ? lines : ""].filter(Boolean);
  $("paper").ariaLabel = parts.length ? `Drawing, ${parts.join(" and ")}` : "Paper to draw on";
}

function buttons() {
  $("undo").disabled = !past.canUndo;
  $("redo").disabled = !past.canRedo;
  $("clear").disabled = $("enlarge").disabled = $("export").disabled = isBlank(paper.drawing);
}

function soon() {
  unpause();
  const prompted = $("prompt").value.trim() !== "";
  if ($("live").checked && prompted) {
    pause = setTimeout(() => (paper.busy ? soon() : draw()), PAUSE);
    rememberDue(true);
    return;
  }
  const submitting = job ? job.id === null : !$("stop").disabled;
  if (!submitting) rememberDue(false);
  if ($("live").checked && !promptless) {
    promptless = true;
    say([PROMPTLESS]);
  }
}

// A picture follows what was drawn; of empty paper there is none.
const follow = () => ($("live").checked && isBlank(past.now) ? stop() : soon());

async function step(direction) {
  paper.finish();
  if (direction === "undo" ? !past.canUndo : !past.canRedo) return;
  past[direction]();
  await putPast();
  follow();
}

// `how` it is read where it is a picture: traced, or which of it is ink.
async function openFile(file, how = "auto") {
  if (!file) return;
  if ($("main").inert) {
    tell([`${file.name} was not opened: the page is not ready yet. Open it again in a moment.`], { error: true });
    return;
  }
  const mine = ++choice;
  tell([`Reading ${file.name} …`]);
  let found;
  try {
    if (file.size > service.largest) throw new server.Refused({ message: `${file.name} is larger than the ${Math.floor(service.largest / 2 ** 20)} MB that are allowed; make it smaller.` }, 0);
    const data = await file.arrayBuffer().catch(() => null);
    if (!data) throw new server.Refused({ message: `${file.name} cannot be read: ${UNREADABLE}` }, 0);
    const recipe = how !== TRACED && file.type === "image/png" ? await recipeIn(file.name, data) : null;
    found = recipe ?? (await server.readSketch(data, how === TRACED ? { trace: true } : { polarity: how }));
  } catch (error) {
    if (mine !== choice) return;
    offer(opened);
    failed(server.mayPass(error) ? { message: UNREAD } : error);
    return;
  }
  if (mine !== choice) return;
  const { request: made, sketch, warnings } = found;
  if (made) {
    const taken = takeUp(made, mine);
    note(warnings);
    show([{ url: URL.createObjectURL(file), blob: file, seed: made.seed, request: made }]);
    await taken;
  } else {
    note(warnings);
    offer(IMAGE.test(file.type) && (sketch.raster || how === TRACED) ? { file, how } : null);
    await take({ ...sketch, erased: [] }, mine);
    soon();
  }
}

// What a picture was made with; null where it was not made by sketchguide.
async function recipeIn(name, data) {
  try {
    return await server.readRecipe(data);
  } catch (error) {
    if (NO_RECIPE.includes(error.field)) return null;
    error.message = `The settings in ${name} cannot be taken up: ${error.message}`;
    throw error;
  }
}

// Of a picture it can be said which its lines are, as long as it is what was opened last.
function offer(picture) {
  opened = picture;
  $("polarity").value = picture?.how ?? "auto";
  $("inked").hidden = !picture;
}

// The drawing without the blank paper around it, and so as large as the paper allows.
async function enlarge() {
  paper.finish();
  const [mine, before] = [++choice, past.now];
  try {
    await load(before.raster); // many earlier pictures may have pushed it out
    const { sketch, warnings } = await server.readSketch(JSON.stringify(settled(before)), { trim: true });
    if (mine !== choice || past.now !== before) return;
    note(warnings);
    await take({ ...sketch, erased: [] }, mine);
    soon();
  } catch (error) {
    if (mine === choice) failed(server.mayPass(error) ? { message: UNASKED } : error);
  }
}

function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// --- settings

// Those that the service knows, where they differ from the defaults.
const known = (given) =>
  Object.fromEntries(
    Object.entries(given).filter(([name, value]) => name in service.settings && value !== null && value !== service.settings[name].default),
  );

// Whether what was entered can be; where it cannot, that is said.
function fits(input, name) {
  const right = input.checkValidity();
  refused = right ? -Infinity : performance.now();
  if (right) say([]);
  else tell([`${name} must be ${allowed(input)}.`], { error: true });
  return right;
}

function allowed({ min, max, validity }) {
  if (validity.badInput) return "a number";
  return validity.stepMismatch ? "a whole number" : `${min} to ${max}`;
}

function chooseSeed(value) {
  seed = value;
  $("seed").value = value;
}

function closenessOf(known) {
  if ("strength" in known) return CLOSENESS;
  const scales = Object.entries(known).filter(([name]) => name.endsWith("_scale"));
  const times = (share) => Object.fromEntries(scales.map(([name, { default: usual }]) => [name, Number((usual * share).toFixed(3))]));
  return [
    { name: "as usual", settings: {} },
    { name: "less closely", settings: times(3 / 4) },
    { name: "loosely: more natural", settings: times(1 / 2) },
  ];
}

function buildSettings() {
  closeness = closenessOf(service.settings);
  close = [...new Set([...CLOSENESS, ...closeness].flatMap(({ settings }) => Object.keys(settings)))];
  $("closeness").replaceChildren(...closeness.map(({ name }) => new Option(name)), new Option("as set below"));
  $("sizes").replaceChildren(...service.sizes.map(([w, h]) => new Option(`${w} × ${h}`)));
  const fields = Object.entries(service.settings).filter(([name]) => !ELSEWHERE.includes(name));
  $("more").replaceChildren(
    ...fields.map(([name, { about, type, minimum, maximum, choices, default: usual }]) => {
      const label = document.createElement("label");
      const words = name.replaceAll("_", " ");
      const number = type !== "string";
      const input = document.createElement(choices ? "select" : "input");
      input.id = `set-${name}`;
      if (choices) input.append(new Option("automatic", ""), ...choices.map((one) => new Option(one)));
      else {
        input.type = number ? "number" : "text";
        if (number) Object.assign(input, { min: minimum, max: maximum, step: type === "integer" ? 1 : "any" });
        input.placeholder = usual ?? "automatic";
      }
      input.onchange = () => {
        if (fits(input, words)) {
          const value = input.value.trim();
          if (value === "") delete settings[name];
          else settings[name] = number ? Number(value) : value;
          save();
          soon();
        }
        showSettings(); // of what does not fit, what was there before
      };
      // From nothing to what is no number is no change to a browser.
      input.onblur = () => input.validity.badInput && input.onchange();
      label.append(words, input, Object.assign(document.createElement("small"), { textContent: about }));
      return label;
    }),
  );
}

function showSettings() {
  for (const input of $("more").querySelectorAll("input, select")) input.value = settings[input.id.slice(4)] ?? "";
  const pulling = Object.fromEntries(close.filter((n) => n in settings).map((n) => [n, settings[n]]));
  const same = ({ settings: one }) =>
    Object.keys({ ...one, ...pulling }).every((name) => one[name] === pulling[name]);
  const place = closeness.findIndex(same);
  $("closeness").selectedIndex = place < 0 ? closeness.length : place;
  $("closeness").options[closeness.length].hidden = place >= 0;
}

function chooseCloseness() {
  const rest = Object.fromEntries(Object.entries(settings).filter(([name]) => !close.includes(name)));
  settings = { ...rest, ...(closeness[$("closeness").selectedIndex]?.settings ?? {}) };
  showSettings();
  save();
  soon();
}

// --- keeping

// `latest`: a new tab begins with it.
function save({ latest = true } = {}) {
  const state = {
    drawing: paper.busy ? paper.now : past.now,
    prompt: $("prompt").value,
    seed,
    size: size(),
    model: service.model,
    live: $("live").checked,
    settings,
  };
  $("unkept").hidden = saveNow(state, { latest });
}

// --- beginning

const inHand = () => document.querySelector("input[name=tool]:checked").value;

// The Latin letter of a key; where the layout has others, the one in its place.
const letter = ({ key, code }) => (/^[a-z]$/i.test(key) ? key : code.replace(/^Key/, "")).toLowerCase();

function takeInHand(kind) {
  document.querySelector(`input[name=tool][value=${kind}]`).checked = true;
  $("size").value = sizes[kind];
}

const isTyped = (element) => element.matches?.("input[type=text], input[type=number]");

// What is dropped or pasted anywhere; text that is meant for a field goes there.
function wireFiles() {
  const isTaken = ({ target, dataTransfer: { types } }) =>
    types.includes("Files") || (types.includes("text/uri-list") && !isTyped(target)); // which the browser would go to
  document.addEventListener("dragover", (event) => isTaken(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isTaken(event)) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) openFile(file);
    else tell([NO_FILE], { error: true });
  });
  document.addEventListener("paste", ({ target, clipboardData }) => {
    const [file] = clipboardData.files;
    const text = clipboardData.getData("text/plain");
    if (isTyped(target) && (text || !file)) return;
    if (file) openFile(file);
    else if (SVG.test(text)) openFile(new File([text], "The SVG", { type: "image/svg+xml" }));
    else tell([NO_DRAWING], { error: true });
  });
}

function wire() {
  for (const input of document.querySelectorAll("input[name=tool]")) input.onchange = () => takeInHand(input.value);
  $("size").oninput = ({ target }) => (sizes[inHand()] = Number(target.value));
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    if (performance.now() - refused < 500) return;
    draw();
  };
  $("stop").onclick = stop;
  $("prompt").oninput = () => save();
  $("prompt").onchange = soon;
  $("live").onchange = () => (save(), soon());
  $("undo").onclick = () => step("undo");
  $("redo").onclick = () => step("redo");
  $("clear").onclick = () => {
    note([]);
    offer(null);
    take(blank(aspect())).then(follow);
  };
  $("enlarge").onclick = enlarge;
  $("open").onchange = ({ target }) => openFile(target.files[0]).finally(() => (target.value = ""));
  $("trace").onchange = ({ target }) => openFile(target.files[0], TRACED).finally(() => (target.value = ""));
  $("polarity").onchange = ({ target }) => openFile(opened.file, target.value);
  $("export").onclick = () => {
    const one = paper.drawing;
    if (one.raster) download("drawing.json", JSON.stringify(settled(one)), "application/json");
    else download("drawing.svg", toSvg(one), "image/svg+xml");
  };
  $("overlay").oninput = ({ target }) => ($("lines").style.opacity = target.value);
  $("closeness").onchange = chooseCloseness;
  $("seed").onchange = ({ target }) => {
    const right = fits(target, "seed");
    chooseSeed(right ? Number(target.value) : seed);
    if (!right) return;
    save();
    soon();
  };
  $("dice").onclick = () => {
    chooseSeed(newSeed());
    save();
    draw();
  };
  $("sizes").onchange = () => {
    reshape();
    putPast().then(soon);
  };
  $("defaults").onclick = () => {
    settings = {};
    showSettings();
    save();
    soon();
  };
  $("forget").onclick = async () => {
    if (!confirm("Forget the earlier pictures? Those that were not saved are gone.")) return;
    const forgotten = history;
    history = [];
    forgotten.forEach(dismiss);
    showHistory();
    await forgetPictures(forgotten).catch(() => {});
  };
  $("heard").onclick = () => {
    closed = warned || closed;
    note([]);
  };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") stop();
    if (event.altKey || isTyped(event.target)) return;
    const key = letter(event);
    if (event.ctrlKey || event.metaKey) {
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      step(key === "y" || event.shiftKey ? "redo" : "undo");
    } else if (!event.target.matches("select") && (key === "p" || key === "e")) takeInHand(key === "p" ? "pen" : "eraser");
  });
  // All else is kept as soon as it changes; and what did not change here may have, in another tab.
  const unfinished = () => paper.busy && save();
  window.addEventListener("pagehide", unfinished);
  document.addEventListener("visibilitychange", () => document.hidden && unfinished());
}

function reshape() {
  $("paper").parentElement.style.setProperty("--aspect", aspect());
  if (!shown) $("result").style.setProperty("--aspect", aspect());
}

// What there is to choose, from what was chosen before, at another model perhaps.
function arrange({ model, size: wanted, settings: chosen }) {
  buildSettings();
  chooseSize(model === service.model ? wanted : service.sizes[placeOf(wanted)]); // another may draw others
  settings = known(chosen ?? {});
  showSettings();
}

function meet(found) {
  service = found;
  about = JSON.stringify(found);
}

// Whether the server draws with something else than before; then the page is made to fit.
async function renewed() {
  const found = await server.about();
  if (JSON.stringify(found) === about) return false;
  const before = { model: service.model, size: size(), settings };
  meet(found);
  arrange(before);
  $("model").textContent = service.model;
  await putPast();
  note([`The server was started anew and draws with ${service.model}; settings that it does not have are left out.`]);
  return true;
}

async function begin() {
  try {
    meet(await server.about());
  } catch (error) {
    if (server.mayPass(error)) {
      banner("The server does not answer; trying again …");
      setTimeout(begin, RETRY);
    } else banner(error.message);
    return;
  }
  const kept = savedState();
  $("prompt").value ||= kept.prompt ?? "";
  chooseSeed(Number(kept.seed ?? newSeed()));
  $("live").checked = kept.live ?? true;
  arrange(kept);
  const drawn = isSound(kept.drawing) ? kept.drawing : blank(aspect());
  const first = await fitted(drawn).catch(() => null);
  past = new Past(first ? drawn : blank(aspect()));
  const tool = (kind = inHand()) => ({
    kind,
    size: sizes[kind],
    weight: Number($("firmness").value),
    mirror: $("mirror").checked,
    pressure: $("pressure").checked,
  });
  const added = (now) => {
    fitting += 1;
    past.add(now);
    changed();
    follow();
  };
  paper = new Paper($("paper"), { drawing: first ?? past.now, tool, drawn: added });
  $("lines").style.opacity = 0;
  new ResizeObserver(paintLines).observe($("lines"));
  wire();
  if (rememberedJob()) job = ordered(null, rememberedJob());
  busy(job !== null);
  buttons();
  nameDrawing();
  save({ latest: false });
  try {
    history = (await keptPictures()).map((one) => ({ ...one, url: URL.createObjectURL(one.blob) }));
  } catch {
    history = [];
  }
  showHistory();
  if (history.length) show([history.at(-1)]);
  banner(null);
  $("model").textContent = service.model;
  $("main").inert = false;
  if (job) watch(job);
  if (isDue()) draw();
}

setTimeout(() => {
  if ($("main").inert && $("banner").hidden) banner(UNREADY);
}, LATE);
wireFiles();
begin();
