// The orders API of the benchmark on Fastify, made safe by node-idempotency, with its records in Redis. REDIS_URL.
// Prints its port. node-idempotency has no plugin for Fastify in the registry, so its core is called from two hooks.

import { Idempotency } from '@node-idempotency/core'
import { RedisStorageAdapter } from '@node-idempotency/storage-adapter-redis'
import Fastify from 'fastify'

const storage = new RedisStorageAdapter({ url: process.env.REDIS_URL })
await storage.connect()
const idempotency = new Idempotency(storage)
const app = Fastify()

const asked = ({ headers, url, body, method }) => ({ headers, path: url, body, method })

app.addHook('preHandler', async (request, reply) => {
  const recorded = await idempotency.onRequest(asked(request))
  if (!recorded) return
  request.replayed = true
  reply.code(recorded.additional.status).header('idempotent-replayed', 'true').type('application/json')
  return reply.send(recorded.body)
})
app.addHook('onSend', async (request, reply, payload) => {
  if (!request.replayed) {
    await idempotency.onResponse(asked(request), { body: payload, additional: { status: reply.statusCode } })
  }
  return payload
})

let orders = 0
app.post('/api/orders', async (request, reply) => {
  const { user_id, cart_id, items } = request.body
  const total_cents = items.reduce((sum, { quantity, price_cents }) => sum + quantity * price_cents, 0)
  orders += 1
  return reply.code(201).send({ order_id: orders, user_id, cart_id, status: 'pending', total_cents, items })
})

await app.listen({ host: '127.0.0.1', port: 0 })
console.log(app.server.address().port)
