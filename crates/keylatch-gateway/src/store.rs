//! Where records are kept: the URL on the command line.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use keylatch::inbox::Places;
use keylatch::outbox::Outbox;
use keylatch::store::Store;
use keylatch::tiered::Tiered;
use keylatch::{cassandra, memory, postgres, redis, sqlite};
use keylatch_admin::Operator;

/// A store that can be opened. Its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    Memory,
    Sqlite(PathBuf),
    Postgres(String),
    Redis(String),
    Cluster(Vec<String>),
    Sentinel { nodes: Vec<String>, service: String },
    Cassandra(String),
}

const WANTED: &str = "it is memory:, sqlite:FILE, postgres://USER@HOST/DATABASE, redis://HOST:PORT, rediss://HOST:PORT, \
                      redis+cluster://HOST:PORT,HOST:PORT, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or \
                      cassandra://HOST,HOST/KEYSPACE";

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').ok_or(WANTED)?;
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "sqlite" if rest.is_empty() => Err("after `sqlite:` comes a file, such as sqlite:keylatch.db".to_owned()),
            "sqlite" => Ok(Self::Sqlite(rest.into())),
            "postgres" | "postgresql" if rest.starts_with("//") => Ok(Self::Postgres(text.to_owned())),
            "redis" | "rediss" if rest.starts_with("//") => Ok(Self::Redis(text.to_owned())),
            "cassandra" if rest.starts_with("//") => Ok(Self::Cassandra(text.to_owned())),
            "redis+cluster" | "rediss+cluster" => Ok(Self::Cluster(nodes(scheme, rest, "")?)),
            "redis+sentinel" | "rediss+sentinel" => {
                let path = rest.trim_start_matches('/').split_once('/');
                let (service, database) = path.map_or(("", ""), |(_, path)| path.split_once('/').unwrap_or((path, "")));
                if service.is_empty() {
                    return Err(
                        "a Sentinel is asked for a service: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE".to_owned()
                    );
                }
                Ok(Self::Sentinel { nodes: nodes(scheme, rest, database)?, service: service.to_owned() })
            }
            _ => Err(WANTED.to_owned()),
        }
    }
}

/// One URL for each host of `//user:password@a,b/…`, with the login and the database.
fn nodes(scheme: &str, rest: &str, database: &str) -> Result<Vec<String>, String> {
    let rest = rest.strip_prefix("//").ok_or(WANTED)?;
    let authorities = rest.split('/').next().unwrap_or_default();
    let (login, hosts) = match authorities.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authorities),
    };
    if hosts.split(',').any(str::is_empty) {
        return Err(WANTED.to_owned());
    }
    let scheme = scheme.split('+').next().unwrap_or_default();
    let path = if database.is_empty() { String::new() } else { format!("/{database}") };
    Ok(hosts.split(',').map(|host| format!("{scheme}://{login}{host}{path}")).collect())
}

impl StoreUrl {
    /// Checks that it can be a cache in front of `store`.
    ///
    /// # Errors
    ///
    /// Says what to change.
    pub(crate) fn check_cache(&self, store: &Self) -> Result<(), String> {
        if !matches!(self, Self::Redis(_)) {
            return Err("--cache is a single Redis: redis://HOST:PORT or rediss://HOST:PORT".to_owned());
        }
        match store {
            Self::Postgres(_) | Self::Sqlite(_) | Self::Cassandra(_) => Ok(()),
            _ => Err(
                "--cache goes in front of PostgreSQL, SQLite or Cassandra; what is kept in Redis or in memory gains \
                 nothing from it: leave it out"
                    .to_owned(),
            ),
        }
    }

    /// Opens it as a service does, with `cache` in front of it if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub(crate) async fn open(&self, cache: Option<&Self>) -> Result<Opened, Box<dyn Error>> {
        self.open_with(cache, Ways { migrates: true, ..Ways::default() }).await
    }

    /// Opens it, and what else its database has.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub(crate) async fn open_with(&self, cache: Option<&Self>, ways: Ways<'_>) -> Result<Opened, Box<dyn Error>> {
        let in_redis =
            ways.prefix.map_or_else(redis::Options::default, |prefix| redis::Options::default().with_prefix(prefix));
        let cache = match cache {
            Some(Self::Redis(url)) => Some(redis::Cache::connect(url, in_redis.clone()).await?),
            _ => None,
        };
        Ok(match self {
            Self::Memory => Opened::of(memory::Store::new()),
            Self::Sqlite(path) => Opened::with_tables(sqlite::Store::open(path).await?, cache),
            Self::Postgres(url) => {
                let store = postgres::Store::connect_with(url, ways.in_postgres()).await?;
                Opened::with_tables(store, cache)
            }
            Self::Redis(url) => Opened::of(redis::Store::connect_with(url, in_redis).await?),
            Self::Cluster(urls) => Opened::of(redis::Store::connect_cluster(&texts(urls), in_redis).await?),
            Self::Sentinel { nodes: urls, service } => {
                Opened::of(redis::Store::connect_sentinel(&texts(urls), service, in_redis).await?)
            }
            Self::Cassandra(url) => {
                Opened::behind(cache, cassandra::Store::connect_with(url, ways.in_cassandra()).await?)
            }
        })
    }

    /// Whether rows have a prefix.
    pub(crate) const fn has_prefix(&self) -> bool {
        self.is_redis() || matches!(self, Self::Cassandra(_))
    }

    /// Whether records are in Redis.
    pub(crate) const fn is_redis(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Cluster(_) | Self::Sentinel { .. })
    }
}

fn texts(urls: &[String]) -> Vec<&str> {
    urls.iter().map(String::as_str).collect()
}

/// The store of another region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegionStore {
    pub(crate) region: String,
    pub(crate) url: StoreUrl,
}

impl FromStr for RegionStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (region, url) = text.split_once('=').ok_or("write NAME=URL, such as us=postgres://USER@HOST/DATABASE")?;
        let url: StoreUrl = url.parse()?;
        if url == StoreUrl::Memory {
            return Err(
                "a store in memory belongs to the process that made it: name one that can be reached".to_owned()
            );
        }
        Ok(Self { region: region.to_owned(), url })
    }
}

impl RegionStore {
    /// Opens it, if it is there.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or would have to be made.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Store>, String> {
        if let StoreUrl::Sqlite(path) = &self.url
            && !path.exists()
        {
            return Err(format!("{} is not there", path.display()));
        }
        let opened = self.url.open_with(None, Ways::default()).await;
        opened.map(|opened| opened.store).map_err(|error| error.to_string())
    }
}

/// How a store is opened: what a service may have chosen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ways<'a> {
    /// The schema in PostgreSQL.
    pub(crate) schema: Option<&'a str>,
    /// The prefix of the keys in Redis, or of the rows in Cassandra.
    pub(crate) prefix: Option<&'a str>,
    /// Whether the schema in PostgreSQL may be made, or brought up to date.
    pub(crate) migrates: bool,
}

impl Ways<'_> {
    /// The options of a store in PostgreSQL.
    pub(crate) fn in_postgres(self) -> postgres::Options {
        let options = postgres::Options::default();
        let options = if self.migrates { options } else { options.without_migration() };
        match self.schema {
            Some(schema) => options.with_schema(schema),
            None => options,
        }
    }
}

impl Ways<'_> {
    /// The options of a store in Cassandra. The tables are made by `keylatch migrate` alone.
    pub(crate) fn in_cassandra(self) -> cassandra::Options {
        let options = cassandra::Options::default();
        self.prefix.map_or(options.clone(), |prefix| options.with_prefix(prefix))
    }
}

/// An open store, and what else its database has.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// The records.
    pub(crate) store: Arc<dyn Store>,
    /// The events.
    pub(crate) outbox: Option<Arc<dyn Outbox>>,
    /// The places and dead letters of consumers.
    pub(crate) places: Option<Arc<dyn Places>>,
    /// The cache in front of the records, which has room for copies of other regions' answers, too.
    pub(crate) cache: Option<redis::Cache>,
}

impl Opened {
    fn of(store: impl Store) -> Self {
        Self { store: Arc::new(store), outbox: None, places: None, cache: None }
    }

    fn behind(cache: Option<redis::Cache>, store: impl Store) -> Self {
        Self { store: behind(cache.clone(), store), outbox: None, places: None, cache }
    }

    fn with_tables<S: Outbox + Places + Clone>(store: S, cache: Option<redis::Cache>) -> Self {
        let (outbox, places) = (Arc::new(store.clone()), Arc::new(store.clone()));
        Self { store: behind(cache.clone(), store), outbox: Some(outbox), places: Some(places), cache }
    }

    /// `operator`, who can work on what is beside the records, too.
    pub(crate) fn equip(&self, mut operator: Operator) -> Operator {
        if let Some(outbox) = self.outbox.clone() {
            operator = operator.with_outbox(outbox);
        }
        if let Some(places) = self.places.clone() {
            operator = operator.with_places(places);
        }
        operator
    }
}

fn behind<S: Store>(cache: Option<redis::Cache>, store: S) -> Arc<dyn Store> {
    match cache {
        Some(cache) => Arc::new(Tiered::new(store, cache)),
        None => Arc::new(store),
    }
}

/// Leaves out everything that is or could be secret.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory: everything is forgotten when the process ends"),
            Self::Sqlite(path) => write!(f, "{} (SQLite)", path.display()),
            Self::Postgres(_) => f.write_str("PostgreSQL"),
            Self::Redis(_) => f.write_str("Redis"),
            Self::Cluster(_) => f.write_str("a Redis Cluster"),
            Self::Sentinel { .. } => f.write_str("Redis, by its Sentinels"),
            Self::Cassandra(_) => f.write_str("Cassandra"),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_store_has_its_url() {
        let parsed = |text: &str| text.parse::<StoreUrl>().unwrap();
        assert_eq!(parsed("memory:"), StoreUrl::Memory);
        assert_eq!(parsed("sqlite:/var/lib/k.db"), StoreUrl::Sqlite("/var/lib/k.db".into()));
        assert_eq!(parsed("postgres://u@h/d"), StoreUrl::Postgres("postgres://u@h/d".to_owned()));
        assert_eq!(parsed("rediss://h:1"), StoreUrl::Redis("rediss://h:1".to_owned()));
        assert_eq!(parsed("cassandra://a,b/keys"), StoreUrl::Cassandra("cassandra://a,b/keys".to_owned()));
        let nodes = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            parsed("redis+cluster://u:p@a:1,b:2"),
            StoreUrl::Cluster(nodes(&["redis://u:p@a:1", "redis://u:p@b:2"]))
        );
        assert_eq!(
            parsed("rediss+sentinel://a:1,b:2/orders/3"),
            StoreUrl::Sentinel { nodes: nodes(&["rediss://a:1/3", "rediss://b:2/3"]), service: "orders".to_owned() }
        );
        for text in
            ["", "memory", "memory:x", "sqlite:", "mysql://h", "redis:h", "redis+cluster://a,,b", "redis+sentinel://a"]
        {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://u:hunter2@h/d",
            "redis://u:hunter2@h",
            "redis+cluster://u:hunter2@h",
            "redis+sentinel://:hunter2@h/s",
            "cassandra://u:hunter2@h/keys",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert!(!format!("{url} {url:?}").contains("hunter2"));
        }
    }

    #[test]
    fn the_store_of_a_region_has_its_name() {
        let store: RegionStore = "us=postgres://u:hunter2@h/d?a=b".parse().unwrap();
        assert_eq!((store.region.as_str(), &store.url), ("us", &"postgres://u:hunter2@h/d?a=b".parse().unwrap()));
        assert!(!format!("{store:?}").contains("hunter2"));
        for wrong in ["postgres://h/d", "us", "us=", "us=memory:"] {
            assert!(wrong.parse::<RegionStore>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cache_goes_in_front_of_a_store_of_truth() {
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        assert_eq!(url("redis://h").check_cache(&url("sqlite:f")), Ok(()));
        assert!(url("redis://h").check_cache(&url("redis://h")).is_err());
        assert!(url("sqlite:f").check_cache(&url("postgres://h")).is_err());
    }
}
