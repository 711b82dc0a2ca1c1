//! The table `[telemetry]` of the file.

use super::mistakes::Mistakes;
use super::table::Table;
use crate::args::{Telemetry, telemetry};

/// Reads the table. It counts when the process starts, and not when the file is read again.
pub(super) fn read(mut table: Table<'_>, mistakes: &mut Mistakes) -> Telemetry {
    let read = Telemetry {
        otlp_endpoint: table.parsed_by("otlp-endpoint", mistakes, telemetry::endpoint),
        otlp_share: table.parsed_by("otlp-share", mistakes, telemetry::share),
        log_format: table.parsed("log-format", mistakes),
    };
    table.end(mistakes);
    read
}
