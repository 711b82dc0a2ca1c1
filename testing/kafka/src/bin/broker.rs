//! A broker for `dev/test`: it says where it listens, and ends when its input does.
#![expect(clippy::print_stdout, reason = "whoever starts it reads the address")]

use std::io::Read as _;

use testing_support::kafka::Cluster;

fn main() {
    let cluster = Cluster::start(1);
    println!("{}", cluster.servers());
    // Nothing is written to it.
    let _ = std::io::stdin().read(&mut [0]);
    drop(cluster);
}
