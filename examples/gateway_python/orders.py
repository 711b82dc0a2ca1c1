import itertools, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Orders(BaseHTTPRequestHandler):
    protocol_version, numbers = "HTTP/1.1", itertools.count(1)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"order": %d}\n' % next(self.numbers)
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 9000))), Orders).serve_forever()
