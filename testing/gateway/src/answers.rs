//! What the service answers, or fails to answer.

use std::future::pending;
use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Seen, Upstream};

impl Upstream {
    /// Answers `request`. Returns whether the connection can serve another.
    pub(crate) async fn answer(&self, stream: &mut TcpStream, request: &Seen) -> io::Result<bool> {
        let target = request.target().1;
        let path = target.split('?').next().unwrap_or_default();
        let (_, path) = path.split_once('/').unwrap_or_default();
        let (kind, argument) = path.split_once('/').unwrap_or((path, ""));
        match kind {
            "letters" | "once" => {
                let letter = self.send(request, kind == "once").await;
                respond(stream, "201 Created", "", json!({ "letter": letter }).to_string().as_bytes()).await?;
            }
            "silent" if argument == "then-free" && request.header("idempotency-attempt").as_deref() != Some("1") => {
                respond(stream, "502 Lies", "Idempotency-Disposition: free\r\n", b"").await?;
            }
            "silent" => pending().await,
            "lies" => {
                self.send(request, false).await;
                respond(stream, "502 Lies", "Idempotency-Disposition: free\r\n", b"").await?;
            }
            "nothing" => return Ok(false),
            "half" | "stall" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it").await?;
                if kind == "stall" {
                    pending::<()>().await;
                }
                return Ok(false);
            }
            "drips-head" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nX-Drips: ").await?;
                return drip(stream, b"x").await;
            }
            "drips" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                return drip(stream, b"1\r\nx\r\n").await;
            }
            "reset" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await?;
                // So that the head is sent before the reset, which would overtake it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.set_zero_linger()?;
                return Ok(false);
            }
            "early" => {
                respond(stream, "200 OK", "Connection: close\r\n", b"early").await?;
                stream.shutdown().await?;
                // To close it with the body unread would reset it, and the answer would be lost on its way.
                while stream.read(&mut [0; 1024]).await? > 0 {}
                return Ok(false);
            }
            "status" => respond(stream, &format!("{argument} So"), "", b"so").await?,
            "says" => {
                let header = format!("Idempotency-Disposition: {argument}\r\n");
                respond(stream, "200 OK", &header, b"said").await?;
            }
            "large" => {
                let bytes = vec![b'x'; argument.parse().expect("a number of bytes")];
                if request.target().0 == "HEAD" {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                    stream.write_all(head.as_bytes()).await?;
                } else {
                    respond(stream, "200 OK", "", &bytes).await?;
                }
            }
            "events" => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head).await?;
                stream.write_all(b"9\r\ndata: 1\n\n\r\n").await?;
                pending::<()>().await;
            }
            "hops" => {
                let headers =
                    "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nX-Kept: 1\r\n";
                respond(stream, "200 OK", headers, b"hops").await?;
            }
            "upgrade" => return self.upgrade(stream, request).await,
            _ => {
                let body = String::from_utf8_lossy(&request.raw_body).into_owned();
                let echo = json!({ "head": request.head, "body": body }).to_string();
                respond(stream, "200 OK", "Content-Type: application/json\r\n", echo.as_bytes()).await?;
            }
        }
        Ok(true)
    }

    async fn upgrade(&self, stream: &mut TcpStream, request: &Seen) -> io::Result<bool> {
        if request.header("upgrade").is_none() {
            respond(stream, "426 Upgrade Required", "", b"").await?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await?;
        let mut bytes = [0; 1024];
        loop {
            match stream.read(&mut bytes).await? {
                0 => return Ok(false),
                read => stream.write_all(&bytes[..read]).await?,
            }
        }
    }
}

async fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).await
}

/// Sends this again and again, with pauses, until nobody takes it.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<bool> {
    loop {
        stream.write_all(bytes).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
