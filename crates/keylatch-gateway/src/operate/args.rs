//! The command line of the operators' commands.

mod consumers;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub(crate) use self::consumers::{
    DeadLetters, ListDeadLetters, ListOutbox, ListPlaces, OrderDeadLetters, OrderEvents, Outbox, Places, ResetPlace,
};
use super::failure::EXIT_CODES;
use crate::args::Span;
use crate::store::StoreUrl;

/// What an operator can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Operate {
    /// Find records, and act on them: did a request take effect, why is its key stuck, may it be let go?
    #[command(subcommand, after_help = EXIT_CODES)]
    Keys(Keys),
    /// Remove expired records, and the answers of those that stay as tombstones, until nothing is left to clean.
    ///
    /// Services do so by themselves. Requests run between the batches.
    Sweep(Sweep),
    /// Bring the schema of the store up to date: PostgreSQL and SQLite have one. Run again, it changes nothing.
    Migrate(Migrate),
    /// The messages that consumers have given up, on PostgreSQL and SQLite.
    #[command(subcommand, after_help = EXIT_CODES)]
    DeadLetters(DeadLetters),
    /// The events that cannot be published until somebody acts, on PostgreSQL and SQLite.
    #[command(subcommand, after_help = EXIT_CODES)]
    Outbox(Outbox),
    /// How far consumers have come in their partitions, on PostgreSQL and SQLite.
    #[command(subcommand, after_help = EXIT_CODES)]
    Places(Places),
    /// More than one region: which one decides about which keys, and what to do when one is lost or comes back.
    #[command(subcommand, after_help = EXIT_CODES)]
    Regions(Regions),
    /// How much there is: runs that nobody works on, events that wait, the records of a scope.
    Stats(Stats),
}

/// The store, and the form of the answer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The store and the answer")]
pub(crate) struct Common {
    /// Where records are kept, as for `keylatch gateway`: sqlite:FILE, postgres://…, redis://…, rediss://…,
    /// redis+cluster://A,B, redis+sentinel://A,B/SERVICE, cassandra://A,B/KEYSPACE. Put a URL with a password into the
    /// environment: every user of the machine can see a program's arguments.
    #[arg(long, value_name = "URL", env = "KEYLATCH_STORE", hide_env_values = true)]
    pub(crate) store: StoreUrl,
    /// The schema in PostgreSQL, if the service has chosen one.
    #[arg(long, value_name = "NAME")]
    pub(crate) schema: Option<String>,
    /// The prefix of the keys in Redis or of the rows in Cassandra, if the service has chosen one.
    #[arg(long, value_name = "NAME")]
    pub(crate) prefix: Option<String>,
    /// Print JSON instead of tables and words.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What every action has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The audit")]
pub(crate) struct Acting {
    /// Append each action to this file: a line of JSON before it and one after it. If the first cannot be written,
    /// nothing is done. Without a file, the actions go to the log, on the standard error.
    #[arg(long, value_name = "FILE", env = "KEYLATCH_AUDIT_LOG")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Who acts, for the audit. By default it is the user who runs the command, or who has called sudo.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) who: Option<String>,
}

/// `keylatch regions …`
#[derive(Debug, Subcommand)]
pub(crate) enum Regions {
    /// Show who decides.
    Show(RegionsAt),
    /// A region is gone: another one decides about its new keys from now on.
    ///
    /// The outcome of each request whose key is older, or has no time in it, is unknown until the region is back. The
    /// stores of a majority of the regions have to be named, and the store of the region that stands in.
    Lose(Lose),
    /// A region is back: it decides about its old keys, and about its new ones from now on. Those that were made meanwhile
    /// stay where they are.
    BringBack(BringBack),
}

/// Where the maps are.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegionsAt {
    /// The file of a gateway, with the table [regions].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The store of a region that takes part, as for its gateways; once for each. In the environment, they are separated by
    /// spaces.
    #[arg(long = "store", value_name = "URL", env = "KEYLATCH_STORES", value_delimiter = ' ', hide_env_values = true)]
    pub(crate) stores: Vec<StoreUrl>,
    /// Print JSON instead of words.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a map is changed.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChangeRegions {
    #[command(flatten)]
    pub(crate) at: RegionsAt,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Change nothing: check everything, and count the records in these stores.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) acting: Acting,
}

/// `keylatch regions lose`
#[derive(Debug, Args)]
pub(crate) struct Lose {
    /// The region that is gone.
    pub(crate) region: String,
    /// The region that stands in.
    #[arg(long, value_name = "REGION")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) change: ChangeRegions,
}

/// `keylatch regions bring-back`
#[derive(Debug, Args)]
pub(crate) struct BringBack {
    /// The region that is back.
    pub(crate) region: String,
    #[command(flatten)]
    pub(crate) change: ChangeRegions,
}

/// `keylatch keys …`
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List records.
    List(List),
    /// Show one record: where it stands, what has happened, and what each action would do.
    Show(Show),
    /// Let go of the key of a run whose outcome is unknown: the next request with it runs. If the run took effect after
    /// all, that is a second time.
    Release(Release),
    /// Say what became of a run whose outcome is unknown: every retry gets this answer from now on, or, if it never
    /// happened, the next request runs.
    Resolve(Box<Resolve>),
    /// Take the answer of a completed record away and leave its tombstone: a retry gets 410, and never runs again.
    ///
    /// A process that has the answer in its cache may give it for another minute. If a cache in Redis is in front of
    /// the store, name it with --cache.
    Forget(Forget),
}

/// `keylatch keys list`
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only the records of this caller, for --operation.
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<String>,
    /// The operation, such as "POST /api/orders"; without it, the records that belong to no operation.
    #[arg(long, value_name = "NAME", requires = "scope")]
    pub(crate) operation: Option<String>,
    /// Only those in this phase. Unknown ones need a person.
    #[arg(long, value_name = "PHASE")]
    pub(crate) phase: Option<PhaseName>,
    /// Show ids, instead of scopes and keys.
    #[arg(long)]
    pub(crate) ids: bool,
    #[command(flatten)]
    pub(crate) page: Page,
}

/// Where a list begins and ends.
#[derive(Debug, Clone, Args)]
pub(crate) struct Page {
    /// How many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Go on where an earlier list ended.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
    /// All of them. With --json, each is a line of its own.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
}

/// A phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PhaseName {
    /// Anyone may claim the key; the record only keeps the epoch.
    Free,
    /// It runs.
    Running,
    /// Its lease has ended; the same request may take over.
    Abandoned,
    /// Its lease has ended, and nobody may take over until somebody resolves it.
    Unknown,
    /// The answer is there.
    Completed,
    /// It took effect; the answer is no longer kept.
    Tombstone,
}

/// Which record.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The caller, as the service knows it.
    #[arg(conflicts_with_all = ["id", "stdin"])]
    pub(crate) scope: Option<String>,
    /// The client's key. Every user of the machine can see a program's arguments: --stdin reads it instead.
    pub(crate) key: Option<String>,
    /// The operation: over HTTP the method and the route, such as "POST /api/orders/{}/pay". `keylatch keys list` shows
    /// it behind the caller. Without it, it is a key that belongs to no operation.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub(crate) operation: Option<String>,
    /// The id of the record, in 64 hexadecimal digits, instead of its scope and key.
    #[arg(long, value_name = "HEX", conflicts_with = "stdin")]
    pub(crate) id: Option<String>,
    /// Read the scope from the first line of the standard input, and the key from the second.
    #[arg(long)]
    pub(crate) stdin: bool,
}

/// What an operator has seen, and why this is done.
#[derive(Debug, Clone, Args)]
pub(crate) struct Seen {
    /// The epoch that `keys show` has shown. If the record is in another one by now, nothing is changed.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) epoch: u64,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `keylatch keys show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Also the headers and the body of the answer.
    #[arg(long)]
    pub(crate) body: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch keys release`
#[derive(Debug, Args)]
pub(crate) struct Release {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) seen: Seen,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
    #[command(flatten)]
    pub(crate) kept: Kept,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A yes in advance.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Confirm {
    /// Do not ask: for scripts.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Kept {
    /// How long an answer is kept, as in the service.
    #[arg(long, value_name = "TIME", default_value_t = Span(keylatch::RETENTION))]
    pub(crate) retention: Span,
    /// How long a key is refused after its answer is no longer kept, as in the service.
    #[arg(long, value_name = "TIME", default_value_t = Span(keylatch::TOMBSTONE))]
    pub(crate) tombstone: Span,
}

/// `keylatch keys resolve`
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) seen: Seen,
    /// It never happened: the next request with the key runs.
    #[arg(long, conflicts_with_all = ["status", "header", "body"])]
    pub(crate) never_happened: bool,
    /// It took effect, and its answer has this status.
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<u16>,
    /// A header of the answer; may be given again.
    #[arg(long, value_name = "NAME: VALUE", requires = "status")]
    pub(crate) header: Vec<String>,
    /// The body of the answer: the text, @FILE, or @- for the standard input.
    #[arg(long, value_name = "TEXT|@FILE", requires = "status")]
    pub(crate) body: Option<String>,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
    #[command(flatten)]
    pub(crate) kept: Kept,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch keys forget`
#[derive(Debug, Args)]
pub(crate) struct Forget {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) seen: Seen,
    /// The cache in Redis in front of the store, if there is one: it must forget the answer, too.
    #[arg(long, value_name = "URL", env = "KEYLATCH_CACHE", hide_env_values = true)]
    pub(crate) cache: Option<StoreUrl>,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch sweep`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Sweep {
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch migrate`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Migrate {
    /// Then grant this role what a service needs at run time, and no more: only PostgreSQL has roles.
    #[arg(long, value_name = "ROLE")]
    pub(crate) grants: Option<String>,
    /// Print the SQL instead of running it: that of the grants, or else that of the schema, for a database without one.
    #[arg(long)]
    pub(crate) print: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch stats`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Stats {
    /// Also count the records of this caller.
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<String>,
    /// Those of this operation of the caller.
    #[arg(long, value_name = "NAME", requires = "scope")]
    pub(crate) operation: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}
