//! What the commands print: tables and words for people, JSON for programs.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use terminal_size::{Width, terminal_size_of};

use unicode_width::UnicodeWidthStr as _;

use super::table::{self, Cell, Column};

/// The width of a terminal that does not tell.
const WIDTH: u16 = 80;

/// Before each line of a paragraph.
const INDENT: &str = "    ";
/// A paragraph is not made narrower.
const PARAGRAPH_MIN: usize = 40;

/// Where the answer of a command goes: to the standard output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// JSON, instead of tables and words.
    pub(super) json: bool,
    /// The width of the terminal, if it is one.
    width: Option<usize>,
    colour: bool,
}

impl Output {
    /// For the standard output of this process. Colours are for terminals, and not where `NO_COLOR` is set.
    pub(super) fn new(json: bool) -> Self {
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        let width = is_terminal.then(|| terminal_size_of(&out).map_or(WIDTH, |(Width(width), _)| width).into());
        let plain = env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty())
            || env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, width, colour: is_terminal && !plain }
    }

    /// Prints an object: one line of JSON.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub(super) fn object(self, object: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(object).map_err(io::Error::other)?;
        self.line(&harmless(&json))
    }

    /// Prints a table, or `nothing` if it has no rows.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub(super) fn table(self, columns: &[Column], rows: &[Vec<Cell>], nothing: &str) -> io::Result<()> {
        if rows.is_empty() {
            return self.line(nothing);
        }
        self.text(&table::lines(columns, rows, self.width, self.colour).join("\n"))
    }

    /// Prints names and values, one pair on a line.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub(super) fn pairs(self, pairs: &[(&str, Cell)]) -> io::Result<()> {
        const COLUMNS: [Column; 2] = [Column::text(""), Column::text("")];
        let rows: Vec<_> = pairs.iter().map(|(name, value)| vec![Cell::from(*name), value.clone()]).collect();
        self.text(&table::lines(&COLUMNS, &rows, None, self.colour)[1..].join("\n"))
    }

    /// Prints words under a title, in lines that fit the terminal.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub(super) fn paragraph(self, title: &str, words: &str) -> io::Result<()> {
        self.line(title)?;
        let width = self.width.unwrap_or_else(|| WIDTH.into()).max(PARAGRAPH_MIN);
        let mut line = String::new();
        for word in words.split(' ') {
            if !line.is_empty() && INDENT.len() + line.width() + 1 + word.width() > width {
                self.line(&format!("{INDENT}{line}"))?;
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(&format!("{INDENT}{line}"))
    }

    /// Prints a line of words, for people. What callers chose is in it only as [`table::shown`].
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub(super) fn line(self, words: &str) -> io::Result<()> {
        self.text(words)
    }

    fn text(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

/// JSON without characters that a terminal obeys. JSON has them only within strings, where they may be escaped.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if char.is_control() || turns {
            let _ = write!(text, "\\u{:04x}", u32::from(char));
        } else {
            text.push(char);
        }
    }
    text
}

/// What is under way, on the last line of a terminal. Where the standard error is none, it says nothing.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    has_written: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), has_written: false }
    }

    /// Shows `words` in place of the words before.
    pub(super) fn show(&mut self, words: &str) {
        if self.is_shown {
            eprint!("\r\x1b[2K{words}");
            self.has_written = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.has_written {
            eprint!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_and_moves_no_cursor() {
        let hostile = "a\u{9b}2J\u{202e}\u{1b}[2J\n";
        let json = harmless(&serde_json::to_string(hostile).unwrap());
        assert!(json.chars().all(|char| char.is_ascii_graphic()), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }
}
