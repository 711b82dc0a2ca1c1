//! The configuration, read from the environment once, at start.

#[cfg(feature = "postgres")]
mod server;
mod storage;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[cfg(feature = "postgres")]
pub(crate) use server::Server;
pub(crate) use storage::Storage;

/// Where to listen, where to store, and who may clean up.
#[derive(Debug)]
pub(crate) struct Config {
    /// `HOST` (127.0.0.1) and `PORT` (3000; 0 for any free one).
    pub(crate) listen: SocketAddr,
    /// Where orders and records are kept.
    pub(crate) storage: Storage,
    /// `KAFKA_BROKERS`: what the events of orders go through. Without it they go to the inventory in this process.
    #[cfg(feature = "kafka")]
    pub(crate) kafka_brokers: Option<String>,
    /// `DATA_DIR` (./data): where SQLite's file is, if there is one. It is made if it is not there.
    pub(crate) data_dir: PathBuf,
    /// `ADMIN_TOKEN`: the token that `POST /api/admin/cleanup` requires. Without one, the route is open on a loopback
    /// address and closed on any other.
    pub(crate) admin_token: Option<Secret>,
}

/// A secret. `Debug` does not show it.
#[derive(PartialEq, Eq)]
pub(crate) struct Secret(String);

/// Everything that is wrong with the environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid(Vec<String>);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PORT: u16 = 3000;
const DATA_DIR: &str = "./data";

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    ///
    /// With everything that is wrong, not only the first.
    pub(crate) fn from_env() -> Result<Self, Invalid> {
        Self::read(std::env::vars_os())
    }

    fn read(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Invalid> {
        let mut vars = Vars { vars: vars.into_iter().collect(), wrong: Vec::new() };
        let host = vars.parse("HOST", HOST, "must be an IP address such as 127.0.0.1, or localhost", host);
        let port = vars.parse("PORT", PORT, "must be a number from 0 to 65535", |text| text.parse().ok());
        let admin_token = vars.parse("ADMIN_TOKEN", None, "must be visible ASCII without spaces", |text| {
            text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Some(Secret(text.to_owned())))
        });
        let storage = Storage::read(&mut vars);
        #[cfg(feature = "kafka")]
        let kafka_brokers = vars.parse("KAFKA_BROKERS", None, "must look like host:9092,host:9092", |text| {
            let is_address = |one: &str| one.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            text.split(',').all(is_address).then(|| Some(text.to_owned()))
        });
        let data_dir = vars.get("DATA_DIR").map_or_else(|| DATA_DIR.into(), PathBuf::from);
        if vars.wrong.is_empty() {
            Ok(Self {
                listen: SocketAddr::new(host, port),
                storage,
                #[cfg(feature = "kafka")]
                kafka_brokers,
                data_dir,
                admin_token,
            })
        } else {
            Err(Invalid(vars.wrong))
        }
    }
}

impl Secret {
    /// The secret itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the environment is not usable:")?;
        self.0.iter().try_for_each(|wrong| write!(f, "\n  {wrong}"))
    }
}

impl std::error::Error for Invalid {}

struct Vars {
    vars: HashMap<OsString, OsString>,
    wrong: Vec<String>,
}

impl Vars {
    /// A variable; an empty one counts as not set.
    fn get(&self, name: &str) -> Option<&OsString> {
        self.vars.get(&OsString::from(name)).filter(|value| !value.is_empty())
    }

    /// The parsed value of a variable. An invalid value is not shown: it may be a misplaced secret.
    fn parse<T>(&mut self, name: &str, default: T, must: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(value) = self.get(name) else { return default };
        value.to_str().and_then(parse).unwrap_or_else(|| {
            self.wrong.push(format!("{name} {must}"));
            default
        })
    }
}

fn host(text: &str) -> Option<IpAddr> {
    if text == "localhost" { Some(HOST) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, Invalid> {
        Config::read(vars.iter().map(|&(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn nothing_set_is_a_local_server() {
        let empty = ["PORT", "HOST", "ADMIN_TOKEN", "REDIS_URL", "DATABASE_URL", "DB_HOST"].map(|name| (name, ""));
        for config in [read(&[]), read(&empty)].map(Result::unwrap) {
            assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
            assert!(matches!(config.storage, Storage::Sqlite));
            assert_eq!(config.data_dir, PathBuf::from("./data"));
            assert_eq!(config.admin_token, None);
        }
    }

    #[test]
    fn everything_can_be_set() {
        let vars = [("PORT", "0"), ("HOST", "::1"), ("DATA_DIR", "/var/lib/orders"), ("ADMIN_TOKEN", "s3cret!")];
        let config = read(&vars).unwrap();
        assert_eq!(config.listen.to_string(), "[::1]:0");
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/orders"));
        let token = config.admin_token.unwrap();
        assert_eq!(token.reveal(), "s3cret!");
        assert_eq!(format!("{token:?}"), "Secret");
        assert_eq!(read(&[("HOST", "localhost")]).unwrap().listen.to_string(), "127.0.0.1:3000");
    }

    #[cfg(all(feature = "postgres", feature = "redis", feature = "kafka"))]
    #[test]
    fn all_that_is_wrong_is_told_at_once_without_the_values() {
        let vars = [
            ("PORT", "65536"),
            ("HOST", "example.org"),
            ("ADMIN_TOKEN", "two words"),
            ("DB_PASSWORD", "hunter2"),
            ("DB_PORT", "hunter2"),
            ("REDIS_URL", "hunter2"),
            ("KAFKA_BROKERS", "hunter2"),
        ];
        let wrong = read(&vars).unwrap_err().to_string();
        assert_eq!(
            wrong,
            "the environment is not usable:\n  \
             HOST must be an IP address such as 127.0.0.1, or localhost\n  \
             PORT must be a number from 0 to 65535\n  \
             ADMIN_TOKEN must be visible ASCII without spaces\n  \
             REDIS_URL must look like redis://user:password@host:6379, or rediss:// for TLS\n  \
             DB_PORT must be a number from 1 to 65535\n  \
             DB_NAME is missing: DB_PORT, DB_PASSWORD ask for PostgreSQL\n  \
             DB_USER is missing: DB_PORT, DB_PASSWORD ask for PostgreSQL\n  \
             KAFKA_BROKERS must look like host:9092,host:9092"
        );
    }
}
