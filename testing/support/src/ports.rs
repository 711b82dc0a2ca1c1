//! Ports that a server takes again when it starts again.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng as _;

/// A port outside the range that connections take theirs from: a server that starts again needs the same.
pub(crate) fn free_port() -> u16 {
    free_port_on(&[Ipv4Addr::LOCALHOST])
}

/// The same, free on all of these addresses.
pub(crate) fn free_port_on(addresses: &[Ipv4Addr]) -> u16 {
    for _ in 0..1_000 {
        let port = rand::rng().random_range(20_000..32_000);
        if addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return port;
        }
    }
    panic!("no port is free");
}
