// The cases that all clients run: see `clients/cases`.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

import { bytesOf, cases, close, fakeClock, module, policyOf, readme, serving } from "./support.mjs";

const { Client, DRAFT, IdempotencyError, InvalidKey, Key, POLICY, STRIPE } = await module("index.js");
const { FileJournal } = await module("node.js");
const { uuid7 } = await module("key.js");
const { RetryBudget } = await module("policy.js");
const { isReplay, retryAfterMs } = await module("profile.js");
const { fingerprint, outgoing } = await module("request.js");

const PROFILES = { draft: DRAFT, stripe: STRIPE };

describe("keys", () => {
  for (const { name, parts, key } of cases("keys.json", "derived")) {
    test(`derived: ${name}`, () => assert.equal(Key.derive(parts).text, key));
  }
  test("no two lists meet", () => {
    const keys = cases("keys.json", "derived").map(({ key }) => key);
    assert.equal(new Set(keys).size, keys.length);
  });
  for (const { name, parts } of cases("keys.json", "derived_refused")) {
    test(`refused: ${name}`, () => assert.throws(() => Key.derive(parts), InvalidKey));
  }
  test("a text is not a list of parts", () => assert.throws(() => Key.derive("order"), InvalidKey));
  for (const { name, unix_ms, random, key } of cases("keys.json", "random")) {
    test(`random: ${name}`, () => assert.equal(uuid7(unix_ms, Buffer.from(random, "hex")), key));
  }
  test("two random keys differ", () => assert.notEqual(Key.random().text, Key.random().text));
  for (const { name, key, region, in_region } of cases("keys.json", "in_region")) {
    test(`in a region: ${name}`, () => assert.equal(new Key(key).inRegion(region).text, in_region));
  }
  for (const { name, key, region } of cases("keys.json", "in_region_refused")) {
    test(`no region: ${name}`, () => assert.throws(() => new Key(key).inRegion(region), InvalidKey));
  }
  for (const { name, key, ...headers } of cases("keys.json", "headers")) {
    for (const profile of ["draft", "stripe"]) {
      test(`${profile}: ${name}`, () => assert.equal(PROFILES[profile].header(new Key(key)), headers[profile]));
    }
  }
  for (const { name, key } of cases("keys.json", "refused")) {
    test(`refused: ${name}`, () => assert.throws(() => new Key(key), InvalidKey));
  }
});

describe("requests", () => {
  const seen = new Set();
  for (const each of cases("requests.json", "fingerprints")) {
    test(each.name, () => {
      const headers = Object.entries({ "content-type": each.content_type, "content-encoding": each.content_encoding });
      const content = { headers: headers.filter(([, value]) => value !== null), body: Buffer.from(each.body, "hex") };
      assert.equal(fingerprint(outgoing(each.method, each.url, content, undefined)), each.fingerprint);
      assert(!seen.has(each.fingerprint));
      seen.add(each.fingerprint);
    });
  }
});

describe("answers", () => {
  for (const each of cases("answers.json", "answers")) {
    test(each.name, () => {
      const reply = { status: each.status, headers: new Headers(each.headers), bytes: bytesOf(each.body) };
      assert.equal(PROFILES[each.profile].meaning(reply), each.means);
      assert.equal(isReplay(reply), each.replayed ?? false);
      const afterMs = retryAfterMs(reply, (each.unix_s ?? 0) * 1000);
      assert.equal(afterMs, each.after_s === undefined ? undefined : each.after_s * 1000);
    });
  }
});

describe("budget", () => {
  for (const { name, policy, events } of cases("budget.json", "budgets")) {
    test(name, () => {
      const budget = new RetryBudget(policyOf(policy), 0);
      for (const [at, what, wait] of events) {
        if (what === "retry") close(budget.reserve(at * 1000), wait * 1000, "the wait");
        else if (what === "answered") budget.answered();
        else budget.giveBack(assert.equal(what, "returned"));
      }
    });
  }
});

describe("journal", () => {
  for (const { name, server: step, kept } of cases("calls.json", "journal")) {
    test(name, async (t) => {
      const server = await serving(t);
      server.script = [step];
      const directory = mkdtempSync(join(tmpdir(), "keylatch-client-"));
      t.after(() => rmSync(directory, { recursive: true }));
      const journal = await FileJournal.open(directory);
      const client = new Client({ baseUrl: server.url, journal, policy: { triesMax: 1 } });
      await client.post("/").catch((error) => assert(error instanceof IdempotencyError));
      assert.equal((await journal.pending()).length, Number(kept));
    });
  }
});

describe("calls", () => {
  test("the defaults are those of the table", () => {
    for (const [, name, value] of readme().matchAll(/^\| `(\w+)` \| ([\d.]+) \|/gm)) {
      const [[field, expected]] = Object.entries(policyOf({ [name]: Number(value) }));
      assert.equal(POLICY[field], expected, field);
    }
    assert.equal([...readme().matchAll(/^\| `(\w+)` \| ([\d.]+) \|/gm)].length, Object.keys(POLICY).length);
  });
  for (const each of cases("calls.json", "calls")) {
    test(each.name, async (t) => {
      const server = await serving(t);
      server.script = [...each.server];
      const clock = fakeClock(each.random);
      const profile = PROFILES[each.profile];
      const client = new Client({ baseUrl: server.url, clock, profile, policy: policyOf(each.policy) });
      const key = new Key("a-key");
      let ends;
      try {
        const answer = await client.post("/api/orders", { json: { a: 1 }, key });
        ends = { answer: answer.status, tries: answer.tries, replayed: answer.replayed };
      } catch (error) {
        if (!(error instanceof IdempotencyError)) throw error;
        ends = { error: error.code, tries: error.tries, status: error.answer?.status ?? null };
        if (error.why) ends.why = error.why;
      }
      assert.deepEqual(ends, each.ends);
      assert.equal(clock.pauses.length, each.pauses.length, `${clock.pauses}`);
      each.pauses.forEach((pause, index) => close(clock.pauses[index], pause * 1000, `pause ${index}`));
      // Each try sends the same bytes under the same key.
      assert.equal(server.seen.length, each.ends.tries);
      for (const { method, path, headers, body } of server.seen) {
        assert.deepEqual([method, path, body], ["POST", "/api/orders", '{"a":1}']);
        assert.equal(headers["idempotency-key"], profile.header(key));
        assert.equal(headers["content-type"], "application/json");
      }
    });
  }
});
