"""Orders behind the gateway in `fenced`: the same derived key is the same order, also after a crash half-way."""

import os, sqlite3, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

db = sqlite3.connect(os.environ.get("DB", "orders.db"), check_same_thread=False, isolation_level=None)
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, text TEXT)")
one_at_a_time = threading.Lock()

class Orders(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        key = self.headers["Idempotency-Derived-Key"]
        if key is None:
            return self.answer(400, b"order through the gateway, with an Idempotency-Key\n")
        with one_at_a_time:
            # The key and the order are one write: there is never one without the other.
            db.execute("INSERT INTO orders (key, text) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (key, text))
            (order,) = db.execute("SELECT id FROM orders WHERE key = ?", (key,)).fetchone()
        self.answer(201, b'{"order": %d}\n' % order)

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 9000))), Orders).serve_forever()
