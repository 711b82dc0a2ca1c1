// The client of the operator API. The token stays in this tab's session storage, and goes out in a header only.

const BASE = new URL("../api/v1/", document.baseURI);
const STORED = "keylatch-token";
/** An answer that takes longer is given up, so that the page says so. */
const ANSWER_MS = 30_000;
/** A stream that is silent for so long is opened again. */
const SILENCE_MS = 30_000;

/** A refusal of the API: a problem (RFC 9457), or no answer at all. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The API answered ${status}.`);
    this.status = status;
    this.code = problem.code ?? "";
    this.title = problem.title ?? "";
    this.now = problem.now;
  }
}

let token = sessionStorage.getItem(STORED);
let onSignedOut = () => {};

/** Calls `then` when the API does not know the token, or no longer. */
export function whenSignedOut(then) {
  onSignedOut = then;
}

export function hasToken() {
  return token !== null;
}

export function setToken(value) {
  token = value;
  if (value === null) {
    sessionStorage.removeItem(STORED);
  } else {
    sessionStorage.setItem(STORED, value);
  }
}

function headers(more = {}) {
  return token === null ? more : { ...more, authorization: `Bearer ${token}` };
}

/** Where a resource is. Parameters without a value are left out. */
function url(path, query = {}) {
  const target = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") {
      target.searchParams.set(name, value);
    }
  }
  return target;
}

async function send(target, options) {
  const abort = AbortSignal.timeout(ANSWER_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, abort]) : abort;
  let response;
  try {
    response = await fetch(target, { cache: "no-store", credentials: "omit", redirect: "error", ...options, signal });
  } catch (error) {
    if (options.signal?.aborted) {
      throw error;
    }
    throw new Refused(0, {
      title: "No answer",
      detail: "The server cannot be reached. The page tries again when you do.",
    });
  }
  return checked(response);
}

async function checked(response) {
  if (response.ok) {
    return response;
  }
  const text = await response.text().catch(() => "");
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    problem = { title: `The API answered ${response.status}.` };
  }
  const refused = new Refused(response.status, problem ?? {});
  if (response.status === 401) {
    onSignedOut(refused);
  }
  throw refused;
}

export async function get(path, query, signal) {
  const response = await send(url(path, query), { headers: headers({ accept: "application/json" }), signal });
  return response.json();
}

export async function post(path, body) {
  const sent = headers({ accept: "application/json", "content-type": "application/json" });
  const response = await send(url(path), { method: "POST", headers: sent, body: JSON.stringify(body) });
  return response.json();
}

/**
 * Reads the stream of events at `path` until `signal` ends it, and opens it again when it breaks. `onEvent` gets each
 * event's name and data; `onState` gets `true` when the stream is open and `false` when it is not.
 */
export async function stream(path, signal, onEvent, onState) {
  let pause = 1000;
  while (!signal.aborted) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    try {
      const response = await checked(
        await fetch(url(path), {
          headers: headers({ accept: "text/event-stream" }),
          cache: "no-store",
          credentials: "omit",
          redirect: "error",
          signal: AbortSignal.any([signal, silence.signal]),
        }),
      );
      onState(true);
      for await (const { event, data } of events(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS);
        pause = 1000;
        if (event) {
          onEvent(event, JSON.parse(data));
        }
      }
    } catch (error) {
      if (error instanceof Refused && (error.status === 401 || error.status === 404)) {
        return onState(false);
      }
    } finally {
      clearTimeout(timer);
    }
    if (!signal.aborted) {
      onState(false);
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, 30_000);
    }
  }
}

/** The longest line and the longest data of an event, in characters: what is longer is no event of this API. */
const EVENT_MAX = 1 << 20;

/**
 * The events in a body (https://html.spec.whatwg.org/multipage/server-sent-events.html). Comments come as events without
 * a name.
 */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, event, data] = ["", "message", []];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      if (rest.length > EVENT_MAX || data.length > EVENT_MAX) {
        throw new Error("the stream has no end of an event");
      }
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) {
            yield { event, data: data.join("\n") };
          }
          [event, data] = ["message", []];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        } else if (line.startsWith("event:")) {
          event = line.slice(6).trim();
        } else if (line.startsWith(":")) {
          yield { event: null, data: "" };
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
