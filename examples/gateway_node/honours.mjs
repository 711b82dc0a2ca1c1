// Orders behind the gateway in `fenced`: the same derived key is the same order, also after a crash half-way.
//
// An order is a file whose name is the key. It is written beside, synced, and then linked to its name, which only the first can do.

import { randomUUID } from "node:crypto";
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, unlinkSync, writeSync } from "node:fs";
import { createServer } from "node:http";

const directory = process.env.ORDERS ?? "orders";
mkdirSync(directory, { recursive: true });

function orderOnce(key, text) {
  const file = `${directory}/${key}`;
  const beside = `${directory}/.${randomUUID()}`;
  const written = openSync(beside, "wx");
  writeSync(written, JSON.stringify({ order: randomUUID(), text }) + "\n");
  fsyncSync(written);
  closeSync(written);
  try {
    linkSync(beside, file);
    const names = openSync(directory);
    fsyncSync(names);
    closeSync(names);
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  } finally {
    unlinkSync(beside);
  }
  return readFileSync(file);
}

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const key = request.headers["idempotency-derived-key"];
    if (!/^[0-9a-f]{64}$/.test(key ?? "")) {
      response.writeHead(400).end("order through the gateway, with an Idempotency-Key\n");
      return;
    }
    response.writeHead(201, { "Content-Type": "application/json" }).end(orderOnce(key, Buffer.concat(chunks).toString()));
  });
}).listen(Number(process.env.PORT ?? 9000), "127.0.0.1");
