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
  const bare = async (more) => {
    const headers = { "content-type": "application/json", "idempotency-key": Key.random().quoted(), prefer: "wait=5" };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(order()), ...more });
    await response.arrayBuffer();
    return response.status;
  };
  const ways = {
    "bare fetch": () => bare({}),
    "fetch with a time-out": () => bare({ signal: AbortSignal.timeout(30_000) }),
    client: async () => (await client.post(url, { json: order() })).status,
  };
  const names = Object.keys(ways);
  /** How many calls a second, and microseconds of this process's CPU for each. */
  const round = async (way) => {
    let left = CALLS;
    const [began, cpu] = [performance.now(), process.cpuUsage()];
    const worker = async () => {
      while (left-- > 0) if ((await ways[way]()) !== 201) throw new Error("not taken");
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
    const { user, system } = process.cpuUsage(cpu);
    return { perSecond: (CALLS / (performance.now() - began)) * 1000, cpuUs: (user + system) / CALLS };
  };
  const rounds = [];
  for (let number = -2; number < ROUNDS; number++) {
    const one = {};
    for (const way of number % 2 ? names : [...names].reverse()) one[way] = await round(way);
    // The first rounds warm up.
    if (number >= 0) rounds.push(one);
  }
  const median = (of) => rounds.map(of).sort((a, b) => a - b)[ROUNDS >> 1];
  console.log(
    `medians of ${ROUNDS} rounds of ${CALLS} calls, ${IN_FLIGHT} in flight; ratios to ${names[0]} in the same round`,
  );
  for (const way of names) {
    const [perSecond, cpuUs] = ["perSecond", "cpuUs"].map((what) => median((one) => one[way][what]).toFixed(0));
    const [speed, cpu] = ["perSecond", "cpuUs"].map((what) =>
      median((one) => one[way][what] / one[names[0]][what]).toFixed(3),
    );
    console.log(`${way}: ${perSecond}/s (${speed}), ${cpuUs} us of CPU each (${cpu})`);
  }
  child?.kill();
}
