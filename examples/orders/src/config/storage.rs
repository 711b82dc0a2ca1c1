//! Where orders and records are kept, from the environment.

#[cfg(any(feature = "cassandra", feature = "redis"))]
use super::Secret;
#[cfg(feature = "postgres")]
use super::Server;
use super::Vars;

/// Where orders and records are kept.
#[derive(Debug)]
pub(crate) enum Storage {
    /// Nothing is set: both in SQLite.
    Sqlite,
    /// `REDIS_URL` alone: records in Redis, orders in SQLite.
    #[cfg(feature = "redis")]
    Redis(Secret),
    /// `CASSANDRA_URL` alone: records in Cassandra, orders in SQLite.
    #[cfg(feature = "cassandra")]
    Cassandra(Secret),
    /// With `DATABASE_URL` or `DB_…` too: records in Cassandra, orders in PostgreSQL.
    #[cfg(all(feature = "cassandra", feature = "postgres"))]
    CassandraAndPostgres(Secret, Server),
    /// `DATABASE_URL` or `DB_…`: both in PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Server),
    /// With `REDIS_URL` too: both in PostgreSQL, and copies of answers in Redis.
    #[cfg(all(feature = "postgres", feature = "redis"))]
    Tiered(Server, Secret),
}

impl Storage {
    pub(super) fn read(vars: &mut Vars) -> Self {
        let built = [cfg!(feature = "postgres"), cfg!(feature = "redis"), cfg!(feature = "kafka")];
        refuse_missing(vars, [built[0], built[1], built[2], cfg!(feature = "cassandra")]);
        #[cfg(feature = "cassandra")]
        if let Some(records) = cassandra(vars) {
            #[cfg(feature = "postgres")]
            if let Some(server) = Server::read(vars) {
                return Self::CassandraAndPostgres(records, server);
            }
            return Self::Cassandra(records);
        }
        #[cfg(feature = "redis")]
        let redis = redis(vars);
        #[cfg(feature = "postgres")]
        if let Some(server) = Server::read(vars) {
            #[cfg(feature = "redis")]
            if let Some(cache) = redis {
                return Self::Tiered(server, cache);
            }
            return Self::Postgres(server);
        }
        #[cfg(feature = "redis")]
        if let Some(records) = redis {
            return Self::Redis(records);
        }
        Self::Sqlite
    }
}

/// The servers that can be configured: name, feature, and the variables of each.
const SERVERS: [(&str, &str, &[&str]); 4] = [
    ("PostgreSQL", "postgres", &["DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"]),
    ("Redis", "redis", &["REDIS_URL"]),
    ("Kafka", "kafka", &["KAFKA_BROKERS"]),
    ("Cassandra", "cassandra", &["CASSANDRA_URL"]),
];

/// Refuses variables that ask for a server that this build cannot use. `built` says which of [`SERVERS`] it can.
fn refuse_missing(vars: &mut Vars, built: [bool; 4]) {
    let asking = SERVERS.map(|(.., names)| names.iter().copied().filter(|name| vars.get(name).is_some()).collect());
    let asking: [Vec<_>; 4] = asking;
    let needed = SERVERS.iter().zip(&asking).zip(built).filter(|((_, set), built)| *built || !set.is_empty());
    let needed = needed.map(|(((_, feature, _), _), _)| *feature).collect::<Vec<_>>().join(",");
    for (((what, ..), set), built) in SERVERS.iter().zip(&asking).zip(built) {
        if !built && !set.is_empty() {
            let (names, ask) = (set.join(", "), if set.len() == 1 { "asks" } else { "ask" });
            let run = format!("run: cargo run --features {needed}");
            vars.wrong.push(format!("{names} {ask} for {what}, which this build does not have; {run}"));
        }
    }
}

/// Records in Cassandra have no cache in front of them.
#[cfg(feature = "cassandra")]
fn cassandra(vars: &mut Vars) -> Option<Secret> {
    const MUST: &str = "must look like cassandra://user:password@host,host/keyspace";
    const SCHEME: &str = "cassandra://";
    let records = vars.parse("CASSANDRA_URL", None, MUST, |url| {
        let known = url.strip_prefix(SCHEME).is_some_and(|rest| rest.split('/').count() == 2);
        known.then(|| Some(Secret(url.to_owned())))
    })?;
    if vars.get("REDIS_URL").is_some() {
        let why = "CASSANDRA_URL keeps the records, and no cache is in front of them: unset REDIS_URL";
        vars.wrong.push(why.to_owned());
    }
    Some(records)
}

#[cfg(feature = "redis")]
fn redis(vars: &mut Vars) -> Option<Secret> {
    const MUST: &str = "must look like redis://user:password@host:6379, or rediss:// for TLS";
    const SCHEMES: [&str; 4] = ["redis://", "rediss://", "redis+unix://", "unix://"];
    vars.parse("REDIS_URL", None, MUST, |url| {
        let known = SCHEMES.iter().any(|scheme| url.starts_with(scheme) && url.len() > scheme.len());
        known.then(|| Some(Secret(url.to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Invalid};
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Storage, Invalid> {
        let config = Config::read(vars.iter().map(|&(name, value)| (name.into(), value.into())));
        config.map(|config| config.storage)
    }

    #[cfg(feature = "redis")]
    #[test]
    fn an_address_of_another_kind_is_refused() {
        for url in ["http://cache.example", "cache.example:6379", "redis://"] {
            let wrong = read(&[("REDIS_URL", url)]).unwrap_err().to_string();
            assert!(wrong.contains("REDIS_URL must look like redis://"), "{url}");
        }
    }

    #[cfg(all(feature = "postgres", feature = "redis"))]
    #[test]
    fn redis_has_the_records_or_stands_before_postgresql() {
        let redis = ("REDIS_URL", "redis://:hunter2@cache.example:6379/3");
        let postgres = ("DATABASE_URL", "postgres://ann:hunter2@db.example:6432/shop");
        match read(&[redis]) {
            Ok(Storage::Redis(records)) => assert_eq!(records.reveal(), redis.1),
            other => panic!("{other:?}"),
        }
        match read(&[redis, postgres]) {
            Ok(Storage::Tiered(_, cache)) => assert_eq!(cache.reveal(), redis.1),
            other => panic!("{other:?}"),
        }
        assert!(!format!("{:?}", read(&[redis, postgres])).contains("hunter2"));
    }

    #[cfg(all(feature = "cassandra", feature = "redis"))]
    #[test]
    fn cassandra_has_the_records_without_a_cache() {
        let cassandra = ("CASSANDRA_URL", "cassandra://ann:hunter2@a,b/shop");
        match read(&[cassandra]) {
            Ok(Storage::Cassandra(records)) => assert_eq!(records.reveal(), cassandra.1),
            other => panic!("{other:?}"),
        }
        #[cfg(feature = "postgres")]
        match read(&[cassandra, ("DATABASE_URL", "postgres://ann:hunter2@db.example/shop")]) {
            Ok(Storage::CassandraAndPostgres(records, _)) => assert_eq!(records.reveal(), cassandra.1),
            other => panic!("{other:?}"),
        }
        let wrong = read(&[cassandra, ("REDIS_URL", "redis://cache.example")]).unwrap_err().to_string();
        assert!(wrong.contains("unset REDIS_URL") && !wrong.contains("hunter2"), "{wrong}");
        let wrong = read(&[("CASSANDRA_URL", "cassandra://hunter2")]).unwrap_err().to_string();
        assert!(wrong.contains("must look like cassandra://") && !wrong.contains("hunter2"), "{wrong}");
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_has_all() {
        let refused = |set: &[&str], built| {
            let vars = set.iter().map(|&name| (name.into(), "there".into())).collect();
            let mut vars = Vars { vars, wrong: Vec::new() };
            refuse_missing(&mut vars, built);
            vars.wrong
        };
        let missing = "which this build does not have; run: cargo run --features";
        let postgres = |features| format!("DB_HOST, DB_NAME ask for PostgreSQL, {missing} {features}");
        let redis = |features| format!("REDIS_URL asks for Redis, {missing} {features}");
        assert_eq!(refused(&["DB_HOST", "DB_NAME"], [false; 4]), [postgres("postgres")]);
        assert_eq!(refused(&["DB_HOST", "DB_NAME"], [false, true, false, false]), [postgres("postgres,redis")]);
        assert_eq!(refused(&["REDIS_URL"], [false; 4]), [redis("redis")]);
        let both = ["DB_HOST", "DB_NAME", "REDIS_URL"];
        assert_eq!(refused(&both, [false; 4]), [postgres("postgres,redis"), redis("postgres,redis")]);
        assert_eq!(refused(&both, [true; 4]), [""; 0]);
        let kafka = format!("KAFKA_BROKERS asks for Kafka, {missing} kafka");
        assert_eq!(refused(&["KAFKA_BROKERS"], [false; 4]), [kafka]);
        let cassandra = format!("CASSANDRA_URL asks for Cassandra, {missing} cassandra");
        assert_eq!(refused(&["CASSANDRA_URL"], [false; 4]), [cassandra]);
        assert_eq!(refused(&["PORT"], [false; 4]), [""; 0]);
    }
}
