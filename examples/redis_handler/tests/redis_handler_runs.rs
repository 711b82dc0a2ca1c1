//! The example does what it says.

use std::process::Command;

use testing_support::redis::{Config, Server};

fn run(url: &str) -> (bool, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_redis_handler")).env("REDIS_URL", url).output().expect("it was built");
    (ran.status.success(), String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}

#[test]
fn two_hundred_requests_are_one_run() {
    let server = Server::start(Config::new());
    for _ in 0..2 {
        let (success, printed) = run(&server.url());
        assert!(success, "{printed}");
        assert_eq!(printed.trim(), "200 requests, 1 run, 200 answers: 201 Created message 1: hello");
    }
}

#[test]
fn without_a_server_it_says_so() {
    let mut server = Server::start(Config::new());
    server.kill();
    let (success, printed) = run(&server.url());
    assert!(!success && printed.contains("Connection refused"), "{printed}");
}
