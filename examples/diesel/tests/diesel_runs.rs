//! The example does what it says.

use std::process::{Child, Command, Stdio};

use testing_support::postgres::Cluster;

fn start(url: Option<&str>) -> Child {
    let mut program = Command::new(env!("CARGO_BIN_EXE_diesel"));
    program.env_remove("DATABASE_URL").envs(url.map(|url| ("DATABASE_URL", url)));
    program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was built")
}

fn end(program: Child) -> (bool, String) {
    let ended = program.wait_with_output().expect("it ends");
    (ended.status.success(), String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).trim().to_owned())
}

#[test]
fn two_processes_pay_once() {
    let cluster = Cluster::start("");
    let url = cluster.tcp_url("postgres");
    let printed = [start(Some(&url)), start(Some(&url))].map(|program| {
        let (success, printed) = end(program);
        assert!(success, "{printed}");
        printed
    });
    let of = |here| format!("10 calls, {here} paid here, 10 told: payment 1");
    assert!(printed == [of(1), of(0)] || printed == [of(0), of(1)], "{printed:?}");
    assert_eq!(end(start(Some(&url))), (true, of(0)));
    assert_eq!(cluster.sql("postgres", "SELECT id, cents FROM salary"), "1|512300");
}

#[test]
fn without_a_server_it_says_what_to_set() {
    let (success, printed) = end(start(None));
    assert!(!success && printed.contains("set DATABASE_URL"), "{printed}");
}
