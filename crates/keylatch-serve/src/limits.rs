//! What a connection may take.

use std::time::Duration;

/// What connections may take, of time and of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take for the head of a request (or for the handshake of TLS), and how long a connection may
    /// be idle. Default 30 s.
    pub head_max: Duration,
    /// How large a head may be, in bytes; a larger one gets a 431. Default 64 KiB, 8 KiB at the least.
    pub head_bytes_max: usize,
    /// How long a client may leave an answer unread. Default 30 s.
    pub unread_max: Duration,
    /// How many connections there may be at once. Default 20,000. The next wait to be taken.
    pub connections_max: usize,
    /// How many requests may be under way on one connection of HTTP/2. Default 100.
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
