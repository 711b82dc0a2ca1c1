// How much a call of the client costs beside a bare `fetch`, at 50 in flight. In one run, by turns, on one server:
//
//     npm run build && node bench/bench.mjs http://127.0.0.1:3000/api/orders
//
// Without a URL it starts a server that does nothing but answer, so that the client is what takes the time.

import { fork } from "node:child_process";
import { createServer } from "node:http";

const IN_FLIGHT = 50;
const CALLS = 2_000;
const ROUNDS = 21;

if (process.send) {
  const server = createServer((request, response) => {
    request.resume();
    request.on("end", () => response.writeHead(201, { "content-type": "application/json" }).end('{"order_id":"1"}'));
  });
  server.listen(0, "127.0.0.1", () => process.send(server.address().port));
} else {
  const { Client, Key } = await import("../dist/index.js");
  let child;
  const started = () => new Promise((resolve) => (child = fork(new URL(import.meta.url))).once("message", resolve));
  const url = process.argv[2] ?? `http://127.0.0.1:${await started()}/`;
  let number = 0;
  const order = () => ({
    user_id: "bench",
    cart_id: `cart-${process.pid}-${number++}`,
    items: [{ product_id: "prod1", quantity: 2, price: 10.5 }],
  });
  const client = new Client();
  const ways = {
    bare: async () => {
      const headers = {
        "content-type": "application/json",
        "idempotency-key": Key.random().quoted(),
        prefer: "wait=5",
      };
      const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(order()) });
      await response.arrayBuffer();
      return response.status;
    },
    client: async () => (await client.post(url, { json: order() })).status,
  };
  const perSecond = async (way) => {
    let left = CALLS;
    const began = performance.now();
    const worker = async () => {
      while (left-- > 0) if ((await ways[way]()) !== 201) throw new Error("not taken");
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
    return (CALLS / (performance.now() - began)) * 1000;
  };
  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  const found = { bare: [], client: [], ratio: [] };
  for (let round = -2; round < ROUNDS; round++) {
    const order = round % 2 ? ["bare", "client"] : ["client", "bare"];
    const one = {};
    for (const way of order) one[way] = await perSecond(way);
    // The first rounds warm up.
    if (round < 0) continue;
    for (const way of order) found[way].push(one[way]);
    found.ratio.push(one.client / one.bare);
  }
  console.log(`bare fetch ${median(found.bare).toFixed(0)}/s, client ${median(found.client).toFixed(0)}/s`);
  console.log(
    `client / bare: ${median(found.ratio).toFixed(3)} (median of ${ROUNDS} rounds of ${CALLS} calls, ${IN_FLIGHT} in flight)`,
  );
  child?.kill();
}
