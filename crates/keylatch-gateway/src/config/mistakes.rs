//! All mistakes in a file, each with its place and the fix.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

/// A part of the file that cannot be used.
#[derive(Debug)]
struct Mistake {
    /// Its place, in bytes of the file.
    at: Range<usize>,
    what: String,
    fix: String,
}

/// All mistakes of a file.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Adds a mistake: `what` is wrong at this place, and the fix.
    pub(crate) fn add(&mut self, at: &Range<usize>, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Mistake { at: at.clone(), what: what.into(), fix: fix.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line for each mistake, in the order of the file: `FILE:LINE:COLUMN: what is wrong: what to do`.
    pub(crate) fn lines(&self, file: &Path, text: &str) -> String {
        let mut mistakes: Vec<_> = self.0.iter().collect();
        mistakes.sort_by_key(|mistake| mistake.at.start);
        mistakes.iter().fold(String::new(), |mut lines, Mistake { at, what, fix }| {
            let (line, column) = place(text, at.start);
            let _ = writeln!(lines, "{}:{line}:{column}: {what}: {fix}", file.display());
            lines
        })
    }
}

/// The line and the column of a byte of `text`, from 1. Columns count characters.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one_and_in_characters() {
        let text = "é = 1\nsecond\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, text.find('=').unwrap()), (1, 3));
        assert_eq!(place(text, text.find('s').unwrap()), (2, 1));
        assert_eq!(place(text, text.len()), (3, 1));
        assert_eq!(place(text, 1_000), (3, 1));
    }

    #[test]
    fn lines_are_in_the_order_of_the_file() {
        let mut mistakes = Mistakes::default();
        mistakes.add(&(3..4), "later", "mend it");
        mistakes.add(&(0..1), "first", "mend it, too");
        let lines = mistakes.lines(Path::new("k.toml"), "ab\ncd");
        assert_eq!(lines, "k.toml:1:1: first: mend it, too\nk.toml:2:1: later: mend it\n");
    }
}
