// Orders from the API, several at a time, and tells each step in a line of JSON. If there is a journal, it finishes
// what that has first.

import { writeSync } from "node:fs";

import { Client, Key } from "keylatch-client";
import { FileJournal } from "keylatch-client/node";

const { URL: baseUrl, ORDERS, FIRST, IN_FLIGHT, USERS, JOURNAL } = process.env;

// The tests are impatient: a try that hears nothing is given up soon, and retries are not spread.
const policy = {
  triesMax: 100,
  tryMsMax: 3_000,
  timeMsMax: 250_000,
  pauseMsMax: 500,
  preferWaitS: 1,
  retriesPerS: 1_000,
};
const journal = JOURNAL && (await FileJournal.open(JOURNAL));
const client = new Client({ baseUrl, policy, ...(journal && { journal }) });

const tell = (line) => writeSync(1, `${JSON.stringify(line)}\n`);

function told(answer) {
  const { status, tries, replayed } = answer;
  if (status !== 201) throw new Error(`${status}: ${answer.text()}`);
  const { cart_id, order_id } = answer.json();
  tell({ cart_id, order_id, status, tries, replayed });
}

if (journal) {
  for (const { request } of await journal.pending()) {
    tell({ resuming: JSON.parse(new TextDecoder().decode(request.body)).cart_id });
  }
  for await (const { answer, error } of client.resume()) {
    if (error) throw error;
    told(answer);
  }
}

let next = Number(FIRST);
async function worker() {
  while (next < Number(ORDERS)) {
    const number = next++;
    tell({ begun: number });
    const order = {
      user_id: `user-${number % Number(USERS)}`,
      cart_id: `cart-${number}`,
      items: [{ product_id: "prod1", quantity: 2, price: 10.5 }],
    };
    // With a journal the key may be random, because the journal remembers it.
    const key = journal ? Key.random() : Key.derive(["order", order.user_id, order.cart_id]);
    told(await client.post("/api/orders", { json: order, key }));
  }
}
await Promise.all(Array.from({ length: Number(IN_FLIGHT) }, worker));
