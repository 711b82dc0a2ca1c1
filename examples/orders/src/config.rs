//! The configuration, read from the environment once, at start.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where to listen, where to store, and who may clean up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// `HOST` (127.0.0.1) and `PORT` (3000; 0 for any free one).
    pub(crate) listen: SocketAddr,
    /// `DATA_DIR` (./data): where the database is. It is made if it is not there.
    pub(crate) data_dir: PathBuf,
    /// `ADMIN_TOKEN`: what `POST /api/admin/cleanup` asks for. Without one, it is open on a loopback address
    /// and closed on any other.
    pub(crate) admin_token: Option<Token>,
}

/// A secret. It never shows itself.
#[derive(PartialEq, Eq)]
pub(crate) struct Token(String);

/// Everything that is wrong with the environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid(Vec<String>);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PORT: u16 = 3000;
const DATA_DIR: &str = "./data";

/// Variables that ask for stores and brokers that this build does not have. Whoever sets one would otherwise
/// believe that orders go there.
const NOT_YET: [&str; 8] =
    ["DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "REDIS_URL", "KAFKA_BROKERS"];

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
        vars.refuse_what_is_not_built();
        let host = vars.parse("HOST", HOST, "must be an IP address such as 127.0.0.1, or localhost", host);
        let port = vars.parse("PORT", PORT, "must be a number from 0 to 65535", |text| text.parse().ok());
        let admin_token = vars.parse("ADMIN_TOKEN", None, "must be visible ASCII without spaces", |text| {
            text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Some(Token(text.to_owned())))
        });
        let data_dir = vars.get("DATA_DIR").map_or_else(|| DATA_DIR.into(), PathBuf::from);
        if vars.wrong.is_empty() {
            Ok(Self { listen: SocketAddr::new(host, port), data_dir, admin_token })
        } else {
            Err(Invalid(vars.wrong))
        }
    }
}

impl Token {
    /// Whether `offered` is this token. How long it takes does not depend on where they differ.
    pub(crate) fn matches(&self, offered: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(offered).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
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
    /// A variable; one that is set to nothing counts as not set.
    fn get(&self, name: &str) -> Option<&OsString> {
        self.vars.get(&OsString::from(name)).filter(|value| !value.is_empty())
    }

    /// A variable's meaning. A value that has none is not shown: it may be a secret that went astray.
    fn parse<T>(&mut self, name: &str, default: T, must: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(value) = self.get(name) else { return default };
        value.to_str().and_then(parse).unwrap_or_else(|| {
            self.wrong.push(format!("{name} {must}"));
            default
        })
    }

    fn refuse_what_is_not_built(&mut self) {
        let set: Vec<_> = NOT_YET.into_iter().filter(|name| self.get(name).is_some()).collect();
        if !set.is_empty() {
            self.wrong.push(format!(
                "{} must not be set: this build stores in SQLite only, in DATA_DIR, and would ignore it",
                set.join(", ")
            ));
        }
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
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
        assert_eq!(config.data_dir, PathBuf::from("./data"));
        assert_eq!(config.admin_token, None);
        assert_eq!(read(&[("PORT", ""), ("HOST", ""), ("ADMIN_TOKEN", ""), ("REDIS_URL", "")]), Ok(config));
    }

    #[test]
    fn everything_can_be_set() {
        let vars = [("PORT", "0"), ("HOST", "::1"), ("DATA_DIR", "/var/lib/orders"), ("ADMIN_TOKEN", "s3cret!")];
        let config = read(&vars).unwrap();
        assert_eq!(config.listen.to_string(), "[::1]:0");
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/orders"));
        let token = config.admin_token.unwrap();
        assert!(token.matches(b"s3cret!"));
        assert!(!token.matches(b"s3cret") && !token.matches(b"") && !token.matches(b"S3cret!"));
        assert_eq!(format!("{token:?}"), "Token");
        assert_eq!(read(&[("HOST", "localhost")]).unwrap().listen.to_string(), "127.0.0.1:3000");
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_without_the_values() {
        let vars =
            [("PORT", "65536"), ("HOST", "example.org"), ("ADMIN_TOKEN", "two words"), ("DB_PASSWORD", "hunter2")];
        let wrong = read(&vars).unwrap_err().to_string();
        assert_eq!(
            wrong,
            "the environment is not usable:\n  \
             DB_PASSWORD must not be set: this build stores in SQLite only, in DATA_DIR, and would ignore it\n  \
             HOST must be an IP address such as 127.0.0.1, or localhost\n  \
             PORT must be a number from 0 to 65535\n  \
             ADMIN_TOKEN must be visible ASCII without spaces"
        );
    }

    #[test]
    fn stores_that_are_not_built_are_refused_by_name() {
        for name in NOT_YET {
            assert!(read(&[(name, "x")]).unwrap_err().to_string().contains(name));
        }
    }
}
