// What outlives a reload: the drawing and the settings in storage that is written at once, pictures in IndexedDB.

const KEY = "sketchguide";
const OWN = `${KEY}-tab`; // two tabs have a drawing each; a new one goes on with the latest
const DUE = `${KEY}-due`;
export const KEPT = 60; // pictures

// Whether it is kept. Where it is not the `latest`, other tabs do not begin with it.
export function saveNow(state, { latest }) {
  const text = JSON.stringify(state);
  const here = keepInTab(OWN, text);
  if (!here) keepInTab(OWN, null); // an older state would be taken for the latest
  if (!latest) return here;
  try {
    localStorage.setItem(KEY, text);
    return true;
  } catch {
    return false;
  }
}

export function savedState() {
  try {
    return JSON.parse(sessionStorage.getItem(OWN) ?? localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

// Whether it is kept: a browser that stores nothing forgets it at a reload.
function keepInTab(key, text) {
  try {
    if (text) sessionStorage.setItem(key, text);
    else sessionStorage.removeItem(key);
    return true;
  } catch {
    return false;
  }
}

function keptInTab(key) {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

// What is being drawn belongs to this tab alone.
export const rememberJob = (id) => keepInTab(KEY, id);
export const rememberedJob = () => keptInTab(KEY);

// And so does what is to be drawn, and did not reach the server yet.
export const rememberDue = (due) => keepInTab(DUE, due ? "due" : null);
export const isDue = () => keptInTab(DUE) !== null;

const settled = (request) =>
  new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });

let opening = null;

// Opened anew where that failed before, or where the browser closed it: when the storage is cleared, say.
function database() {
  opening ??= (() => {
    const request = indexedDB.open(KEY, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
    const closed = () => (opening = null);
    const opened = settled(request);
    opened.then((found) => (found.onclose = closed), closed);
    return opened;
  })();
  return opening;
}

const pictures = async (mode) => (await database()).transaction("pictures", mode).objectStore("pictures");

// All of them or, where there is no room, none. Returns the `id` of each, which those that are kept have.
export async function keepPictures(made) {
  const store = await pictures("readwrite");
  const added = made.map((one) => store.add(one));
  const ids = await settled(store.getAllKeys());
  for (const old of ids.slice(0, -KEPT)) store.delete(old);
  await new Promise((done, failed) => {
    store.transaction.oncomplete = done;
    store.transaction.onabort = () => failed(store.transaction.error);
  });
  return added.map(({ result }) => result);
}

export const keptPictures = async () => settled((await pictures("readonly")).getAll());

// Those alone: other tabs have pictures too.
export async function forgetPictures(some) {
  const store = await pictures("readwrite");
  await Promise.all(some.filter(({ id }) => id).map(({ id }) => settled(store.delete(id))));
}
