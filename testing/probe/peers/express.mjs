// An orders API on Express, made safe by a package as its own documentation says, with its records in Redis.
// PEER: express-idempotency or node-idempotency. PORT, REDIS_URL, and ORDERS, the file of orders.

import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import express from 'express'

const require = createRequire(import.meta.url)
const { PEER, PORT, REDIS_URL, ORDERS } = process.env
const app = express()

/** The middleware of each package, and whether a handler must ask it first whether it has already answered. */
const peers = {
  'express-idempotency': async () => {
    const idempotency = require('express-idempotency')
    const RedisAdapter = require('express-idempotency-redis-adapter').default
    const dataAdapter = new RedisAdapter({ connectionConfig: { url: REDIS_URL } })
    await dataAdapter.connect()
    const middleware = idempotency.idempotency({ dataAdapter })
    return [middleware, request => idempotency.getSharedIdempotencyService().isHit(request)]
  },
  // Its package for Express is not in the registry, so its core is called as its page says: before the handler and after.
  'node-idempotency': async () => {
    const { Idempotency, IdempotencyErrorCodes } = require('@node-idempotency/core')
    const { RedisStorageAdapter } = require('@node-idempotency/storage-adapter-redis')
    const storage = new RedisStorageAdapter({ url: REDIS_URL })
    await storage.connect()
    const idempotency = new Idempotency(storage)
    const statuses = {
      [IdempotencyErrorCodes.IDEMPOTENCY_KEY_LEN_EXEEDED]: 400,
      [IdempotencyErrorCodes.IDEMPOTENCY_KEY_MISSING]: 400,
      [IdempotencyErrorCodes.IDEMPOTENCY_FINGERPRINT_MISSMATCH]: 422,
      [IdempotencyErrorCodes.REQUEST_IN_PROGRESS]: 409
    }
    const middleware = async ({ headers, path, body, method }, response, next) => {
      const request = { headers, path, body, method }
      try {
        const recorded = await idempotency.onRequest(request)
        if (recorded) return response.status(recorded.additional.status).json(recorded.body)
      } catch (error) {
        return response.status(statuses[error.code] ?? 500).json({ error: error.message })
      }
      const json = response.json.bind(response)
      response.json = async answer => {
        await idempotency.onResponse(request, { body: answer, additional: { status: response.statusCode } })
        return json(answer)
      }
      next()
    }
    return [middleware, () => false]
  }
}

const [middleware, isAnswered] = await peers[PEER]()
const orders = () => (existsSync(ORDERS) ? readFileSync(ORDERS, 'utf8').split('\n').length - 1 : 0)

app.get('/api/orders', (request, response) => response.json({ orders: orders() }))
app.use(express.json())
app.post('/api/orders', middleware, async (request, response) => {
  if (isAnswered(request)) return
  await new Promise(resolve => setTimeout(resolve, 30))
  appendFileSync(ORDERS, `${JSON.stringify(request.body)}\n`, { flush: true })
  response.status(201).json({ order_id: orders() })
})
app.listen(Number(PORT), '127.0.0.1')
