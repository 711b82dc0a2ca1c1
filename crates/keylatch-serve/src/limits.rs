//! The limits of a connection.

use std::time::Duration;

/// The limits of connections, in time and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take for the head of a request (or for the TLS handshake), and how long a connection may
    /// be idle. Default 30 s.
    pub head_max: Duration,
    /// The largest head of a request, in bytes; a larger one gets a 431. Default 64 KiB, at least 8 KiB.
    pub head_bytes_max: usize,
    /// How long a client may leave an answer unread. Default 30 s.
    pub unread_max: Duration,
    /// The most connections at once. Default 20,000. Further ones wait to be accepted.
    pub connections_max: usize,
    /// The most running requests on one HTTP/2 connection. Default 100.
    pub streams_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_max: Duration::from_secs(30),
            head_bytes_max: 64 << 10,
            unread_max: Duration::from_secs(30),
            connections_max: 20_000,
            streams_max: 100,
        }
    }
}
