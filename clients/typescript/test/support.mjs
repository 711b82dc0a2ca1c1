// A server that does what a script says, a clock that does not wait, and the modules of the package.

import { webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

// Node 18 has it, but not as a global; browsers do.
globalThis.crypto ??= webcrypto;

const dist = process.env.KEYLATCH_DIST ?? new URL("../dist/", import.meta.url).href;
const casesAt = process.env.KEYLATCH_CASES ?? new URL("../../cases/", import.meta.url).href;

/** A module of the package, also one that is not exported. */
export const module = (name) => import(new URL(name, dist).href);

export function cases(file, name) {
  const found = JSON.parse(readFileSync(new URL(file, casesAt), "utf8"))[name];
  if (!found?.length) throw new Error(`${file} has no ${name}`);
  return found;
}

export const readme = () => readFileSync(new URL("README.md", casesAt), "utf8");

export const bytesOf = (body = "") => new TextEncoder().encode(typeof body === "string" ? body : JSON.stringify(body));

const CREATED = { status: 201, headers: {}, body: { order_id: "1" } };

/** Answers each request with the next step of `script`. `seen` has what arrived. */
export async function serving(test) {
  const server = { script: [], seen: [], reached: () => {} };
  const http = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const { method, url: path, headers } = request;
    server.seen.push({ method, path, headers, body: Buffer.concat(parts).toString() });
    await server.reached();
    const step = server.script.shift() ?? CREATED;
    if (step === "silent") return;
    if (step === "lost") return request.socket.destroy();
    if (step === "cut") {
      response.writeHead(201, { "content-length": 100 });
      return response.write("{", () => request.socket.destroy());
    }
    response.sendDate = false;
    response.writeHead(step.status, step.headers);
    response.end(bytesOf(step.body));
  });
  // Longer than any test: otherwise a slow machine would see connections that close between two tries.
  http.keepAliveTimeout = 60_000;
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  server.url = `http://127.0.0.1:${http.address().port}`;
  test.after(() => {
    http.closeAllConnections();
    http.close();
  });
  return server;
}

/** Time passes only in pauses, which take no time. */
export function fakeClock(random = 1) {
  const clock = {
    pauses: [],
    at: 1_000_000,
    unix: 1_795_978_800_000,
    now: () => clock.at,
    unixMs: () => clock.unix,
    random: () => random,
    sleep: async (ms) => {
      clock.pauses.push(ms);
      clock.at += ms;
    },
  };
  return clock;
}

/** A policy of the table, in the units of this client. */
export function policyOf(table) {
  const units = {
    time_s_max: "timeMsMax",
    try_s_max: "tryMsMax",
    pause_s_base: "pauseMsBase",
    pause_s_max: "pauseMsMax",
  };
  const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  return Object.fromEntries(
    Object.entries(table).map(([name, value]) => (units[name] ? [units[name], value * 1000] : [camel(name), value])),
  );
}

export function close(found, expected, what) {
  if (Math.abs(found - expected) > 1e-6) throw new Error(`${what}: ${found} instead of ${expected}`);
}
