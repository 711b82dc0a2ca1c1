//! The example does what it says.

use std::process::Command;

#[test]
fn the_same_request_twice_sells_one_ticket() {
    let ran = Command::new(env!("CARGO_BIN_EXE_basic_handler")).output().expect("the example was built");
    let printed = String::from_utf8(ran.stdout).expect("it prints text");
    assert!(ran.status.success(), "{printed}\n{}", String::from_utf8_lossy(&ran.stderr));
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..2], ["201 Created ticket 1 for Ada", "201 Created ticket 1 for Ada  (replayed)"]);
    assert!(lines[2].starts_with("422 "), "{printed}");
    assert!(lines[2].contains("IDEMPOTENCY_KEY_REUSED"), "{printed}");
}
