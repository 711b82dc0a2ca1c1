//! The example does what it says.

use std::process::Command;

use testing_support::kafka::Cluster;

fn run(brokers: &str) -> (bool, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_queue_consumer")).env("KAFKA_BROKERS", brokers).output();
    let ran = ran.expect("it was built");
    (ran.status.success(), String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}

#[test]
fn each_order_is_taken_once() {
    let cluster = Cluster::start(1);
    let (success, printed) = run(&cluster.servers());
    assert!(success, "{printed}");
    assert_eq!(printed.trim(), "20 messages, 10 orders, 945 pieces left");
}

#[test]
fn without_a_broker_it_says_so() {
    let (success, printed) = run("127.0.0.1:1");
    assert!(!success && printed.contains("no broker at 127.0.0.1:1"), "{printed}");
}
