//! The PostgreSQL server, from the environment.

use std::fmt;

use keylatch::postgres::sqlx::postgres::PgConnectOptions;

use super::Vars;

/// A database on a PostgreSQL server, and how to log in there. `Debug` does not show the password.
#[derive(Clone)]
pub(crate) struct Server(Box<PgConnectOptions>);

const HOST: &str = "localhost";
const PORT: u16 = 5432;

/// A variable for a part of a [`Server`], what it must be, and how it is set.
type Part = (&'static str, &'static str, fn(PgConnectOptions, &str) -> Option<PgConnectOptions>);

const PARTS: [Part; 5] = [
    ("DB_HOST", "must be a host's name, an address or a socket's directory", |to, host| Some(to.host(host))),
    ("DB_PORT", "must be a number from 1 to 65535", |to, port| {
        port.parse().ok().filter(|port| *port > 0).map(|port| to.port(port))
    }),
    ("DB_NAME", "must be the name of a database", |to, name| Some(to.database(name))),
    ("DB_USER", "must be the name of a role", |to, user| Some(to.username(user))),
    ("DB_PASSWORD", "must be text", |to, password| Some(to.password(password))),
];
/// Only the operator can know these.
const NO_DEFAULT: [&str; 2] = ["DB_NAME", "DB_USER"];

impl Server {
    /// How to connect, including the password.
    pub(crate) fn options(&self) -> PgConnectOptions {
        (*self.0).clone()
    }

    /// `DATABASE_URL`, or the `DB_` variables together. Both may be set if they agree.
    pub(super) fn read(vars: &mut Vars) -> Option<Self> {
        const URL: &str = "must look like postgres://user:password@host:5432/database";
        let url = vars.parse("DATABASE_URL", None, URL, |url| {
            let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
            url.parse().ok().filter(|_| known).map(Some)
        });
        let from_parts = PgConnectOptions::new_without_pgpass().host(HOST).port(PORT);
        let mut server = url.clone().unwrap_or(from_parts);
        let mut set = Vec::new();
        for (name, must, part) in PARTS {
            let Some(changed) = vars.parse(name, None, must, |value| part(server.clone(), value).map(Some)) else {
                set.extend(vars.get(name).map(|_| name));
                continue;
            };
            set.push(name);
            // There is no other way to compare them; it is not shown.
            if url.is_some() && format!("{changed:?}") != format!("{server:?}") {
                vars.wrong.push(format!("{name} and DATABASE_URL differ; set only one of them"));
            }
            server = changed;
        }
        if url.is_none() && !set.is_empty() {
            for name in NO_DEFAULT.iter().filter(|name| !set.contains(name)) {
                vars.wrong.push(format!("{name} is missing: {} ask for PostgreSQL", set.join(", ")));
            }
        }
        (url.is_some() || !set.is_empty()).then(|| Self(Box::new(server)))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(server) = self;
        write!(f, "PostgreSQL, database {} on ", server.get_database().unwrap_or(server.get_username()))?;
        match server.get_socket() {
            Some(socket) => write!(f, "{}", socket.display()),
            None => write!(f, "{}:{}", server.get_host(), server.get_port()),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Invalid, Storage};
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Storage, Invalid> {
        let config = Config::read(vars.iter().map(|&(name, value)| (name.into(), value.into())));
        config.map(|config| config.storage)
    }

    fn server(vars: &[(&str, &str)]) -> PgConnectOptions {
        match read(vars) {
            Ok(Storage::Postgres(server)) => server.options(),
            other => panic!("{other:?}"),
        }
    }

    fn wrong(vars: &[(&str, &str)]) -> String {
        read(vars).unwrap_err().to_string()
    }

    const URL: (&str, &str) = ("DATABASE_URL", "postgres://ann:hunter2@db.example:6432/shop");
    const SAID: [(&str, &str); 5] = [
        ("DB_HOST", "db.example"),
        ("DB_PORT", "6432"),
        ("DB_NAME", "shop"),
        ("DB_USER", "ann"),
        ("DB_PASSWORD", "hunter2"),
    ];

    #[test]
    fn a_url_and_its_parts_say_the_same() {
        let (by_url, by_parts) = (server(&[URL]), server(&SAID));
        let said = |server: &PgConnectOptions| {
            let Ok(database) = server.get_database().ok_or(()) else { panic!("there is a database") };
            (server.get_host().to_owned(), server.get_port(), server.get_username().to_owned(), database.to_owned())
        };
        assert_eq!(said(&by_url), said(&by_parts));
        assert_eq!(said(&by_url), ("db.example".into(), 6432, "ann".into(), "shop".into()));
        for server in [by_url, by_parts] {
            assert!(format!("{server:?}").contains("hunter2"), "it has the password");
            assert_eq!(format!("{:?}", Server(Box::new(server))), "PostgreSQL, database shop on db.example:6432");
        }
    }

    #[test]
    fn host_port_and_password_have_defaults_and_the_rest_is_asked_for() {
        let server = server(&[("DB_NAME", "shop"), ("DB_USER", "ann")]);
        assert_eq!((server.get_host(), server.get_port()), ("localhost", 5432));
        for name in NO_DEFAULT {
            let others: Vec<_> = SAID.into_iter().filter(|(part, _)| *part != name).collect();
            assert!(wrong(&others).contains(&format!("{name} is missing")), "{}", wrong(&others));
        }
    }

    #[test]
    fn a_url_and_parts_must_agree() {
        let mut both = vec![URL];
        both.extend(SAID);
        server(&both);
        for (name, _) in SAID {
            let wrong = wrong(&[URL, (name, "17")]);
            assert!(wrong.contains(&format!("{name} and DATABASE_URL differ")), "{wrong}");
            assert!(!wrong.contains("hunter2") && !wrong.contains("17"), "{wrong}");
        }
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for url in ["mysql://db.example/shop", "db.example", "postgres://db.example:port/shop"] {
            assert!(wrong(&[("DATABASE_URL", url)]).contains("DATABASE_URL must look like postgres://"), "{url}");
        }
    }
}
