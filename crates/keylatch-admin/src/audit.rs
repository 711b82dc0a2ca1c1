//! Audit events: who did what, why, and to what state.
//!
//! Each action makes two events with one id: `asked` before it, and `done`, `refused` or `failed` after it. They go to the
//! log, under the target `keylatch::audit`, and, by choice, to a file: a line of JSON each, appended and synced. If the
//! first line cannot be written, the action is refused, and nothing happens.
//!
//! An event names a record by its id. It never has a key, a body or a token.

mod file;

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::access::Role;
use crate::view::{Instant, Phase};
use file::File;

/// The target of audit events in the log.
pub const TARGET: &str = "keylatch::audit";

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Actor {
    /// The name of the token, or of the user of the command line.
    pub name: String,
    /// What this actor may do.
    pub role: Role,
    /// By which way.
    pub via: Via,
}

/// By which way somebody acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// The HTTP API, with a token.
    Token,
    /// The HTTP API on a loopback address, without a token.
    Loopback,
    /// The command line.
    CommandLine,
    /// A program that uses [`Operator`](crate::Operator) itself.
    Program,
}

impl Via {
    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Loopback => "loopback",
            Self::CommandLine => "command-line",
            Self::Program => "program",
        }
    }
}

/// Where a record, a place or an event stood before an action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Before {
    /// Its epoch, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The phase of a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The next offset of a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// An action, as somebody asks for it.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// What is to be done, such as `release`.
    pub action: &'static str,
    /// To what: the id of a record, the name of a place, the ids of dead letters or events.
    pub target: Vec<String>,
    /// Why.
    pub reason: String,
    /// The state before.
    pub before: Before,
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It is asked for, and has not happened.
    Asked,
    /// It has happened.
    Done,
    /// It was not possible, and nothing has changed.
    Refused,
    /// The store failed: whether it has happened is not always known.
    Failed,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A line of the file.
#[derive(Debug, Serialize)]
struct Line<'a> {
    at: Instant,
    event: Uuid,
    stage: Stage,
    who: &'a Actor,
    #[serde(flatten)]
    asked: &'a Asked,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
}

/// Where audit events go: to the log, and by choice to a file.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    file: Option<Arc<File>>,
}

impl Audit {
    /// To the log, and to the file at `path`, which is made with the mode 0600 if it is not there. It is opened for each
    /// event, so it may be renamed at any time, as a rotation of logs does.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened for writing.
    pub fn to_file(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { file: Some(Arc::new(File::new(path.as_ref())?)) })
    }

    /// Records that `who` asks for an action.
    ///
    /// # Errors
    ///
    /// If the line cannot be written to the file. Then the action must not happen.
    pub async fn asked(&self, who: &Actor, asked: Asked) -> io::Result<Trail> {
        let trail = Trail { audit: self.clone(), event: Uuid::now_v7(), who: who.clone(), asked };
        trail.write(Stage::Asked, None).await?;
        Ok(trail)
    }
}

/// An action that was asked for.
#[derive(Debug)]
pub struct Trail {
    audit: Audit,
    event: Uuid,
    who: Actor,
    asked: Asked,
}

impl Trail {
    /// Records what became of it. A line that cannot be written now is in the log, with the error: the action has
    /// happened, and the next one is refused.
    pub async fn ended(self, stage: Stage, result: &str) {
        if let Err(error) = self.write(stage, Some(result)).await {
            tracing::error!(target: TARGET, event = %self.event, %error, "the audit file cannot be written");
        }
    }

    async fn write(&self, stage: Stage, result: Option<&str>) -> io::Result<()> {
        let Self { audit, event, who, asked } = self;
        tracing::info!(
            target: TARGET,
            %event,
            stage = stage.name(),
            who = who.name,
            role = who.role.name(),
            via = who.via.name(),
            action = asked.action,
            on = ?asked.target,
            reason = asked.reason,
            epoch = asked.before.epoch,
            phase = asked.before.phase.map(Phase::name),
            next = asked.before.next,
            result,
        );
        let Some(file) = audit.file.clone() else { return Ok(()) };
        let line = Line { at: Instant::now(), event: *event, stage, who, asked, result };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        tokio::task::spawn_blocking(move || file.append(&line)).await?
    }
}
