// Orders from the API in a browser, and reloads its page in the middle, again and again. What was begun before is
// finished first.

import { Client, IndexedDbJournal, Key } from "keylatch-client";

const ORDERS = 2_000;
const USERS = 4;
/** As many connections as a browser has to a site. */
const IN_FLIGHT = 6;
const RELOADS = 4;

const lines = [];
const tell = (line) => lines.push(JSON.stringify(line));
// A beacon is sent even if the page goes.
const post = () => lines.length > 0 && navigator.sendBeacon("/told", lines.splice(0).join("\n"));
addEventListener("pagehide", post);
addEventListener("error", ({ message }) => tell({ failed: message }));
addEventListener("unhandledrejection", ({ reason }) => (tell({ failed: String(reason?.stack ?? reason) }), post()));
setInterval(post, 100);

const policy = {
  triesMax: 100,
  tryMsMax: 3_000,
  timeMsMax: 250_000,
  pauseMsMax: 500,
  preferWaitS: 1,
  retriesPerS: 1_000,
};
const journal = await IndexedDbJournal.open();
const client = new Client({ journal, policy });

function told(answer) {
  const { status, tries, replayed } = answer;
  if (status !== 201) throw new Error(`${status}: ${answer.text()}`);
  const { cart_id, order_id } = answer.json();
  tell({ cart_id, order_id, status, tries, replayed });
}

for (const { request } of await journal.pending()) {
  tell({ resuming: JSON.parse(new TextDecoder().decode(request.body)).cart_id });
}
for await (const { answer, error } of client.resume()) {
  if (error) throw error;
  told(answer);
}

const loads = Number(localStorage.loads ?? 0) + 1;
localStorage.loads = loads;
const until = loads > RELOADS ? ORDERS : (loads * ORDERS) / (RELOADS + 1);

let next = Number(localStorage.begun ?? 0);
async function worker() {
  while (next < ORDERS) {
    // All workers are at it when the page goes.
    if (next >= until) return location.reload();
    const number = next++;
    localStorage.begun = next;
    tell({ begun: number });
    const json = {
      user_id: `user-${number % USERS}`,
      cart_id: `cart-${number}`,
      items: [{ product_id: "prod1", quantity: 2, price: 10.5 }],
    };
    told(await client.post("/api/orders", { json, key: Key.random() }));
  }
}
await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
if (loads > RELOADS) tell({ ended: true });
