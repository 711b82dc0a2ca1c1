// What a table of answers cannot show: keys and their requests, the journal, cancelling, events.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { inspect } from "node:util";

import { fakeClock, module, serving } from "./support.mjs";

const { Client, GaveUp, JournalFull, Key, KeyExpired, KeyReused, OutcomeUnknown, STRIPE } = await module("index.js");
const { FileJournal } = await module("node.js");

const UNKNOWN = {
  status: 409,
  headers: { "content-type": "application/problem+json" },
  body: { code: "IDEMPOTENCY_OUTCOME_UNKNOWN", retryable: false },
};
const FAST = { triesMax: 2 };

function directory(t) {
  const path = mkdtempSync(join(tmpdir(), "keylatch-client-"));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

const entry = (key, body = "1") => ({
  key: new Key(key),
  request: { method: "POST", url: "http://shop.example/", headers: {}, body: Buffer.from(body) },
  createdUnixMs: 1,
});

async function all(things) {
  const found = [];
  for await (const thing of things) found.push(thing);
  return found;
}

describe("a key", () => {
  test("belongs to one request", async (t) => {
    const server = await serving(t);
    const client = new Client({ baseUrl: server.url });
    const key = new Key("a-key");
    await client.post("/orders", { json: { a: 1 }, key });
    const others = [
      ["POST", "/orders", { json: { a: 2 } }],
      ["PATCH", "/orders", { json: { a: 1 } }],
      ["POST", "/orders?x", { json: { a: 1 } }],
      ["POST", "/orders", { json: { a: 1 }, headers: { "Content-Type": "text/plain" } }],
    ];
    for (const [method, url, content] of others) {
      const isUnsent = (error) => error instanceof KeyReused && error.answer === undefined;
      await assert.rejects(client.request(method, url, { ...content, key }), isUnsent);
    }
    assert.equal(server.seen.length, 1);
    await client.post("/orders", { json: { a: 1 }, key });
    assert.equal(server.seen.length, 2);
  });

  test("is not shown by logs", async (t) => {
    const server = await serving(t);
    server.script = ["lost", "lost"];
    const client = new Client({ baseUrl: server.url, policy: FAST, clock: fakeClock() });
    const error = await client.post("/", { key: new Key("a-secret") }).catch((error) => error);
    assert(error instanceof GaveUp && error.cause);
    assert.equal(error.key.text, "a-secret");
    for (const shown of [inspect(error), JSON.stringify(error), `${error.key}`]) assert.doesNotMatch(shown, /secret/);
  });

  test("of ten thousand others is forgotten", async () => {
    let sent = 0;
    const fetch = async () => new Response(String(++sent));
    const client = new Client({ baseUrl: "http://shop.example", fetch });
    for (let n = 0; n <= 10_000; n++) await client.post("/", { key: new Key(`key-${n}`), body: "a" });
    await client.post("/", { key: new Key("key-0"), body: "b" });
    await assert.rejects(client.post("/", { key: new Key("key-10000"), body: "b" }), KeyReused);
  });
});

describe("a request", () => {
  test("has no headers that the client sets, and no two bodies", async () => {
    const client = new Client({ baseUrl: "http://shop.example" });
    for (const name of ["Idempotency-Key", "Prefer", "Content-Length"]) {
      await assert.rejects(client.post("/", { headers: { [name]: "x" } }), TypeError);
    }
    await assert.rejects(client.post("/", { json: 1, body: "1" }), TypeError);
    await assert.rejects(client.post("/", { json: () => 1 }), TypeError);
    await assert.rejects(client.post("http://user:password@shop.example/"), TypeError);
    await assert.rejects(new Client().post("/no-base"), TypeError);
  });

  test("asks the server to wait", async (t) => {
    const server = await serving(t);
    for (const [preferWaitS, header] of [
      [5, "wait=5"],
      [90, "wait=15"],
      [0, undefined],
    ]) {
      server.seen = [];
      await new Client({ baseUrl: server.url, policy: { preferWaitS } }).post("/");
      assert.equal(server.seen[0].headers.prefer, header);
    }
  });

  test("sends the bytes that it was given, whatever becomes of the buffer", async (t) => {
    const server = await serving(t);
    const body = Buffer.from("before");
    server.script = ["lost"];
    server.reached = () => void body.write("after.");
    await new Client({ baseUrl: server.url, clock: fakeClock() }).post("/", { body });
    assert.deepEqual(
      server.seen.map((each) => each.body),
      ["before", "before"],
    );
  });
});

test("a policy that cannot be kept is an error", () => {
  for (const policy of [
    { triesMax: 0 },
    { tryMsMax: 0 },
    { pauseMsMax: -1 },
    { retriesPerS: NaN },
    { timeMsMax: 1e12 },
    { timeMsMax: 24 * 60 * 60 * 1000 },
    { tries: 1 },
  ]) {
    assert.throws(() => new Client({ policy }), RangeError, JSON.stringify(policy));
  }
});

describe("a journal", () => {
  test("has an intent before the first try, until the answer", async (t) => {
    const path = directory(t);
    const server = await serving(t);
    const journal = await FileJournal.open(path);
    const seen = [];
    // As another process sees it, while the server has the request.
    server.reached = async () => seen.push(...(await (await FileJournal.open(path)).pending()));
    await new Client({ baseUrl: server.url, journal }).post("/orders", { json: { a: 1 }, key: new Key("a/key") });
    assert.equal(seen.length, 1);
    assert.equal(seen[0].key.text, "a/key");
    assert.equal(Buffer.from(seen[0].request.body).toString(), '{"a":1}');
    assert.deepEqual(readdirSync(path), []);
  });

  test("lets the next client finish what has no answer", async (t) => {
    const path = directory(t);
    const server = await serving(t);
    const options = async () => ({
      baseUrl: server.url,
      journal: await FileJournal.open(path),
      policy: FAST,
      clock: fakeClock(),
    });
    server.script = ["lost", "lost", UNKNOWN];
    const client = new Client(await options());
    await assert.rejects(client.post("/", { json: "lost", key: new Key("lost") }), GaveUp);
    await new Promise((resolve) => setTimeout(resolve, 2));
    await assert.rejects(client.post("/", { json: "unknown", key: new Key("unknown") }), OutcomeUnknown);
    const before = server.seen.slice(1);
    server.script = [{ status: 201, headers: { "idempotent-replayed": "true" } }, UNKNOWN];
    const next = new Client(await options());
    const resumed = await all(next.resume());
    const of = (key) => resumed.find((each) => each.entry.key.text === key);
    assert.equal(resumed.length, 2);
    // Both were begun at the same moment of the clock, so either may be first.
    const [answered] = resumed.filter((each) => each.answer);
    assert.equal(answered.answer.replayed, true);
    assert(resumed.find((each) => each.error).error instanceof OutcomeUnknown);
    assert(of("lost") && of("unknown"));
    // With the same keys and bytes.
    const sent = (requests) =>
      requests.map(({ headers, body }) => [headers["idempotency-key"], headers["content-type"], body]).sort();
    assert.deepEqual(sent(server.seen.slice(3)), sent(before));
    // What is not known stays, until it is.
    assert((await all(next.resume()))[0].answer);
    assert.deepEqual(await all(next.resume()), []);
  });

  test("binds a key over processes", async (t) => {
    const server = await serving(t);
    const journal = await FileJournal.open(directory(t));
    await journal.begin(entry("a-key"));
    await assert.rejects(new Client({ baseUrl: server.url, journal }).post("/", { key: new Key("a-key") }), KeyReused);
    assert.equal(server.seen.length, 0);
  });

  test("does not send an old intent, which the server may have forgotten", async (t) => {
    const server = await serving(t);
    const journal = await FileJournal.open(directory(t));
    const clock = fakeClock();
    const client = new Client({ baseUrl: server.url, journal, policy: FAST, clock, profile: STRIPE });
    server.script = ["lost", "lost"];
    await assert.rejects(client.post("/", { key: new Key("a-key") }), GaveUp);
    clock.unix += 24 * 60 * 60 * 1000;
    for (let times = 0; times < 2; times++) {
      const [{ error }] = await all(client.resume());
      assert(error instanceof KeyExpired);
      assert.match(error.message, /journal\.end/);
    }
    assert.equal(server.seen.length, 2);
    await journal.end(new Key("a-key"));
    assert.deepEqual(await all(client.resume()), []);
  });

  test("has no credentials; they come from the client", async (t) => {
    const path = directory(t);
    const server = await serving(t);
    const journal = await FileJournal.open(path);
    server.script = ["lost", "lost"];
    const first = new Client({ baseUrl: server.url, journal, policy: FAST, clock: fakeClock() });
    const headers = { Authorization: "Bearer first-token", "X-User-Id": "alice" };
    await assert.rejects(first.post("/", { headers }), GaveUp);
    assert.equal(server.seen[1].headers.authorization, "Bearer first-token");
    for (const name of readdirSync(path)) assert.doesNotMatch(readFileSync(join(path, name), "utf8"), /first-token/);
    let asked = 0;
    const later = new Client({
      baseUrl: server.url,
      journal,
      clock: fakeClock(),
      headers: async () => ({ authorization: `Bearer ${++asked}` }),
    });
    await all(later.resume());
    assert.equal(server.seen[2].headers.authorization, "Bearer 1");
    assert.equal(server.seen[2].headers["x-user-id"], "alice");
  });

  test("is read by this user only, and cleans up what a crash has left", async (t) => {
    const path = join(directory(t), "journal");
    const journal = await FileJournal.open(path);
    await journal.begin(entry("a-key"));
    const [name] = readdirSync(path);
    assert.equal(statSync(path).mode & 0o777, 0o700);
    assert.equal(statSync(join(path, name)).mode & 0o777, 0o600);
    for (const left of ["old.new", "young.new"]) writeFileSync(join(path, left), "{");
    utimesSync(join(path, "old.new"), 1, 1);
    assert.equal((await (await FileJournal.open(path)).pending()).length, 1);
    assert.deepEqual(readdirSync(path).sort(), [name, "young.new"].sort());
  });

  test("is bounded, and sends nothing when it is full", async (t) => {
    const server = await serving(t);
    const journal = await FileJournal.open(directory(t), { entriesMax: 2, bodyBytesMax: 10 });
    for (const key of ["a", "b", "a"]) await journal.begin(entry(key));
    await assert.rejects(journal.begin(entry("c")), JournalFull);
    await assert.rejects(new Client({ baseUrl: server.url, journal }).post("/", { body: "x".repeat(11) }), JournalFull);
    assert.equal(server.seen.length, 0);
    await journal.end(new Key("a"));
    await journal.begin(entry("c"));
    assert.deepEqual((await journal.pending()).map(({ key }) => key.text).sort(), ["b", "c"]);
  });

  test("gives two calls that begin at once the same intent", async (t) => {
    const path = directory(t);
    const [one, other] = [await FileJournal.open(path), await FileJournal.open(path)];
    for (let round = 0; round < 50; round++) {
      const key = `key-${round}`;
      const begun = await Promise.all([one.begin(entry(key, "1")), other.begin(entry(key, "2"))]);
      const [first, second] = begun.map(({ request }) => Buffer.from(request.body).toString());
      assert.equal(first, second);
    }
    assert.equal(readdirSync(path).length, 50);
  });

  test("says which file it cannot read", async (t) => {
    const path = directory(t);
    const journal = await FileJournal.open(path);
    for (const text of ["{", '{"format":2,"body":""}']) {
      writeFileSync(join(path, "x.json"), text);
      await assert.rejects(journal.pending(), /x\.json/);
    }
  });

  test("does not resume what the same client is about to finish", async (t) => {
    const server = await serving(t);
    const client = new Client({ baseUrl: server.url, journal: await FileJournal.open(directory(t)) });
    const resumed = [];
    server.reached = async () => resumed.push(...(await all(client.resume())));
    await client.post("/");
    assert.deepEqual([resumed, server.seen.length], [[], 1]);
    await assert.rejects(all(new Client().resume()), TypeError);
  });
});

describe("a cancelled call", () => {
  const slow = { status: 503, headers: { "retry-after": "60" } };
  for (const [waits, step, last] of [
    ["for the answer", "silent", "try"],
    ["in a pause", slow, "pause"],
  ]) {
    test(`stops while it waits ${waits}, and its intent stays`, async (t) => {
      const server = await serving(t);
      server.script = [step];
      const journal = await FileJournal.open(directory(t));
      const events = [];
      const cancel = new AbortController();
      const observe = (event) => {
        events.push(event);
        if (event.kind === last && last === "pause") setImmediate(() => cancel.abort(new Error("enough")));
      };
      if (last === "try") server.reached = () => cancel.abort(new Error("enough"));
      const client = new Client({ baseUrl: server.url, journal, observe });
      await assert.rejects(client.post("/", { key: new Key("a-key"), signal: cancel.signal }), /^Error: enough$/);
      const { kind, why } = events.at(-1);
      assert.deepEqual([kind, why], ["error", "stopped"]);
      assert.deepEqual(
        (await journal.pending()).map(({ key }) => key.text),
        ["a-key"],
      );
    });
  }

  test("that was cancelled before sends nothing", async (t) => {
    const server = await serving(t);
    const client = new Client({ baseUrl: server.url });
    await assert.rejects(client.post("/", { signal: AbortSignal.abort(new Error("enough")) }), /enough/);
    assert.equal(server.seen.length, 0);
  });
});

test("an observer sees each step and no secret", async (t) => {
  const server = await serving(t);
  const events = [];
  const client = new Client({ baseUrl: server.url, clock: fakeClock(0.5), observe: (event) => events.push(event) });
  server.script = ["lost", { status: 503, headers: {} }];
  await client.post("/orders?token=secret", { key: new Key("a-secret") });
  server.script = [UNKNOWN];
  await assert.rejects(client.post("/orders"), OutcomeUnknown);
  assert.deepEqual(
    events.map(({ call, kind, tries, status, why }) => [call, kind, tries, status, why]),
    [
      [1, "try", 1, undefined, undefined],
      [1, "pause", 1, undefined, "lost"],
      [1, "try", 2, undefined, undefined],
      [1, "pause", 2, 503, "retry"],
      [1, "try", 3, undefined, undefined],
      [1, "answer", 3, 201, undefined],
      [2, "try", 1, undefined, undefined],
      [2, "error", 1, undefined, "outcome_unknown"],
    ],
  );
  assert.deepEqual(
    events.filter(({ kind }) => kind === "pause").map(({ pauseMs }) => pauseMs),
    [50, 100],
  );
  assert.deepEqual(new Set(events.map(({ url }) => url)), new Set([`${server.url}/orders`]));
  assert.doesNotMatch(JSON.stringify(events), /secret/);
});

test("retries of all calls of a client share a budget", async (t) => {
  const server = await serving(t);
  const clock = fakeClock(0);
  const policy = { triesMax: 2, retriesBurstMax: 3, retriesPerS: 1, retriesPerAnswer: 0 };
  const client = new Client({ baseUrl: server.url, clock, policy });
  for (let n = 0; n < 5; n++) {
    server.script = ["lost", "lost"];
    await assert.rejects(client.post("/"), GaveUp);
  }
  assert.deepEqual(clock.pauses, [0, 0, 0, 1000, 1000]);
});

test("an answer, and a retry that is not sent, fill the budget", async (t) => {
  for (const [retriesPerAnswer, step] of [
    [1, "lost"],
    [0, { status: 503, headers: { "retry-after": "60" } }],
  ]) {
    const server = await serving(t);
    const clock = fakeClock(0);
    const policy = { timeMsMax: 10_000, retriesBurstMax: 1, retriesPerS: 1, retriesPerAnswer };
    const client = new Client({ baseUrl: server.url, clock, policy });
    server.script = [step];
    await client.post("/").catch((error) => assert(error instanceof GaveUp));
    server.script = ["lost"];
    await client.post("/");
    assert.deepEqual(new Set(clock.pauses), new Set([0]));
  }
});

test("an answer has its bytes, text and JSON", async (t) => {
  const server = await serving(t);
  const answer = await new Client({ baseUrl: server.url }).post("/");
  assert.deepEqual(
    [answer.ok, answer.status, answer.text(), answer.json()],
    [true, 201, '{"order_id":"1"}', { order_id: "1" }],
  );
  server.script = [{ status: 302, headers: { location: "/elsewhere" } }];
  const redirect = await new Client({ baseUrl: server.url }).post("/");
  assert.deepEqual([redirect.ok, redirect.status, redirect.headers.get("location")], [false, 302, "/elsewhere"]);
});
