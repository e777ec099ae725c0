// What the page asks the server.

const RETRY = 1500; // ms
const SILENT = 40000; // ms without an event, more than twice as long as the server is ever silent: the connection is dead
const PATIENCE = 30000; // ms for an answer
const LONG = 120000; // ms where much is sent or read: to trace a large photograph takes a while
const ENDED = ["done", "failed", "cancelled"];

export class Refused extends Error {
  constructor(error, status) {
    super([error.message, error.hint].filter(Boolean).join(" "));
    this.status = status;
    this.busy = [429, 502, 503, 504].includes(status); // in a moment it may go: a proxy says so of a server that is away
    this.field = error.field;
  }
}

// Whether it may answer otherwise in a moment: it is out of reach, or busy.
export const mayPass = (error) => !(error instanceof Refused) || error.busy;

const pause = () => new Promise((done) => setTimeout(done, RETRY));

async function ask(path, options = {}, patience = PATIENCE) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(patience), ...options });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(body.error ?? { message: `The server answered ${answer.status}.` }, answer.status);
  return body;
}

const post = (path, body, type = "application/octet-stream") =>
  ask(path, { method: "POST", body, headers: { "content-type": type } }, LONG);

export const about = () => ask("api/about");
export const ready = () => ask("ready");
export const submit = (request) => post("api/jobs", JSON.stringify(request), "application/json");
export const state = (id) => ask(`api/jobs/${id}`);
export const cancel = (id) => ask(`api/jobs/${id}`, { method: "DELETE", keepalive: true });
export const readSketch = (data, how) => post(`api/sketches?${new URLSearchParams(how)}`, data);
export const readRecipe = (data) => post("api/recipes", data, "image/png");

export async function picture(url) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(LONG) });
  if (!answer.ok) throw new Refused({ message: `The server answered ${answer.status}.` }, answer.status);
  return answer.blob();
}

// Follow a job to its end: `told` gets every state, `away` whether the server is out of reach. Returns the last state,
// null where the server does not know the job (it was started anew), or where `given` says that nobody cares any more:
// then it is asked once more, for pictures that were finished meanwhile. Refused where the server answers otherwise.
export async function follow(id, { told, away, given }) {
  while (!given.aborted) {
    const end = await listen(id, (now) => (away(false), told(now)), given);
    if (end) return end;
    const now = await untilThere(() => state(id), { away, given });
    if (!now) break;
    told(now);
    if (ENDED.includes(now.state)) return now;
    await pause(); // a proxy that passes no events on would be asked without end
  }
  return null;
}

// What `fetched` gives, asked for at least once, and again while the server is out of reach; null where it does not have
// it any more, or where `given` says that nobody cares.
export async function untilThere(fetched, { away, given }) {
  do {
    try {
      const found = await fetched();
      away(false);
      return found;
    } catch (error) {
      if (error instanceof Refused && error.status === 404) {
        away(false);
        return null;
      }
      if (!mayPass(error)) throw error; // it asks for another token, say
      away(true);
      await pause();
    }
  } while (!given.aborted);
  return null;
}

function listen(id, told, given) {
  return new Promise((done) => {
    const stream = new EventSource(`api/jobs/${id}/events`);
    let silence = 0;
    const close = (end) => {
      clearTimeout(silence);
      stream.close();
      done(end);
    };
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(close, SILENT, null);
    };
    heard();
    stream.addEventListener("alive", heard);
    given.addEventListener("abort", () => close(null), { once: true });
    stream.onmessage = ({ data }) => {
      heard();
      const now = JSON.parse(data);
      told(now);
      if (ENDED.includes(now.state)) close(now);
    };
    stream.onerror = () => close(null);
  });
}
