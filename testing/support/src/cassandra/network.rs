//! The network between the nodes of a cluster: a test can cut one of them off.
//!
//! The others know each node by an address of the network, which passes connections on to the node's own. Requests and
//! answers between two nodes are on different connections. The first bytes of each say which node has opened it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::link::Way;

/// How much a connection begins with before the address of the node that opens it: a magic number of 4 bytes, flags of 4,
/// and how long address and port are together.
const BEFORE_ADDRESS: usize = 9;

/// How a node is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Connections stay open, and nothing passes. What was sent meanwhile passes later.
    Silent,
    /// Connections are closed, and each new one.
    Closed,
}

/// It has threads of its own, because a cluster outlives the test that starts it.
#[derive(Debug)]
pub(super) struct Network {
    ways: Arc<Ways>,
    runtime: Option<Runtime>,
}

/// From each node to each, by their numbers.
#[derive(Debug)]
struct Ways(Vec<Vec<Way>>);

impl Network {
    /// A network between the nodes at these addresses and this port.
    pub(super) fn start(own: &[Ipv4Addr], port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let ways = || own.iter().map(|target| Way::to((*target, port).into())).collect();
        let ways = Arc::new(Ways(own.iter().map(|_| ways()).collect()));
        let nodes: Arc<[_]> = own.iter().map(|own| known_as(*own)).collect();
        for (to, node) in nodes.iter().enumerate() {
            let listener = runtime.block_on(TcpListener::bind((*node, port))).expect("the port is free");
            runtime.spawn(accept(listener, to, nodes.clone(), ways.clone()));
        }
        Self { ways, runtime: Some(runtime) }
    }

    /// Sets what happens to all that passes between a node and the others. `None`: it passes.
    pub(super) fn cut_off(&self, node: usize, cut: Option<Cut>) {
        for (from, ways) in self.ways.0.iter().enumerate() {
            for (_, way) in ways.iter().enumerate().filter(|(to, _)| (from == node) != (*to == node)) {
                match cut {
                    None => way.mend(),
                    Some(Cut::Silent) => way.fall_silent(true),
                    Some(Cut::Closed) => way.cut(),
                }
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The address by which the others know a node.
pub(super) fn known_as(own: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, last] = own.octets();
    Ipv4Addr::new(a, b, c, last + 100)
}

/// Passes on what comes for one node.
async fn accept(listener: TcpListener, to: usize, nodes: Arc<[Ipv4Addr]>, ways: Arc<Ways>) {
    while let Ok((client, _)) = listener.accept().await {
        let (nodes, ways) = (nodes.clone(), ways.clone());
        tokio::spawn(async move {
            let (client, head, from) = opened_by(client, &nodes).await?;
            ways.0[from][to].pass(client, head).await
        });
    }
}

/// Which node has opened a connection, and what was read of it to know that.
async fn opened_by(mut client: TcpStream, nodes: &[Ipv4Addr]) -> io::Result<(TcpStream, Vec<u8>, usize)> {
    let mut head = vec![0; BEFORE_ADDRESS + 4];
    client.read_exact(&mut head).await?;
    let from = nodes.iter().position(|node| node.octets() == head[BEFORE_ADDRESS..]);
    let from = from.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no node has this address"))?;
    Ok((client, head, from))
}
