//! The service as a program: `wrong-server PORT FILE [MISTAKE]`.

use std::path::PathBuf;

use testing_probe::Service;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, file, mistake @ ..] = &arguments[..] else { panic!("wrong-server PORT FILE [MISTAKE]") };
    let mistake = mistake.first().map(|name| name.parse().expect("a mistake"));
    let listener = TcpListener::bind(("127.0.0.1", port.parse().expect("a port"))).await.expect("the port is free");
    Service::new(mistake, Some(&PathBuf::from(file))).serve(listener).await;
}
