//! Connections that end in the middle of something.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Request;

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It says that it goes (FIN).
    Close,
    /// It is gone, and the machine says so (RST).
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

/// Sends `bytes` and leaves at once, without a look at the answer.
///
/// # Errors
///
/// If the server does not take them within some seconds.
pub async fn send_and_leave(authority: &str, bytes: &[u8], leave: Leave) -> io::Result<()> {
    const TAKEN_MAX: Duration = Duration::from_secs(10);
    let sent = async {
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(bytes).await?;
        if leave == Leave::Reset {
            stream.set_zero_linger()?;
        }
        Ok(())
    };
    timeout(TAKEN_MAX, sent).await?
}
