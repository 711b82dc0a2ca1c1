//! Connections that end in the middle of something.

use std::time::Duration;
use std::{fs, io};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Request;
use crate::eventually;

/// How a client disconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// With a FIN.
    Close,
    /// With a RST.
    Reset,
}

/// `request` as it goes over the wire.
pub fn bytes_of(request: &Request, authority: &str) -> Vec<u8> {
    let Request { path, scope, key, body, wait_s } = request;
    let prefer = wait_s.map(|seconds| format!("Prefer: wait={seconds}\r\n")).unwrap_or_default();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nX-User-Id: {scope}\r\n\
         Idempotency-Key: {key}\r\n{prefer}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects, and sends `bytes`.
    ///
    /// If the server does not accept them within some seconds.
    ///
    /// If the server does not take them within some seconds.
    pub async fn sending(authority: &str, bytes: &[u8]) -> io::Result<Self> {
        let sent = async {
            let mut stream = TcpStream::connect(authority).await?;
            stream.write_all(bytes).await?;
            Ok(Self { stream })
        };
        timeout(SOON, sent).await?
    }

    /// Disconnects without reading the answer, and waits until the server has closed its end as well: from then on it
    /// knows that the client is gone.
    ///
    /// # Panics
    ///
    /// If the server keeps the connection for some seconds.
    pub async fn leave(self, leave: Leave) {
        let (client, server) = (self.stream.local_addr(), self.stream.peer_addr());
        let (client, server) = (client.expect("it is bound").port(), server.expect("it is connected").port());
        if leave == Leave::Reset {
            self.stream.set_zero_linger().expect("a socket takes options");
        }
        drop(self);
        eventually(SOON, "the server to let go of the connection", async || !is_held(server, client)).await;
    }
}

/// How long a server on this machine may take for something that it does at once.
const SOON: Duration = Duration::from_secs(10);

/// Whether the process that listens on `server` still holds its end of the connection from `client`.
fn is_held(server: u16, client: u16) -> bool {
    /// Both ends are open, or the other end has closed (`include/net/tcp_states.h`).
    const HELD: [&str; 2] = ["01", "08"];
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux lists its connections");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().take(4).collect();
        let [_, local, remote, state] = fields[..] else { return false };
        port(local) == Some(server) && port(remote) == Some(client) && HELD.contains(&state)
    })
}
