//! Tables for people.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Between two columns.
const GAP: &str = "  ";
/// A column is not cut to less than this.
const COLUMN_MIN: usize = 8;
/// In place of what was cut off.
const CUT: char = '…';

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// Its title.
    pub(super) title: &'static str,
    /// Numbers stand at its right.
    pub(super) right: bool,
    /// It is cut if the line is too long for the terminal.
    pub(super) cut: bool,
}

impl Column {
    /// A column of words.
    pub(super) const fn text(title: &'static str) -> Self {
        Self { title, right: false, cut: false }
    }

    /// A column of numbers.
    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, right: true, cut: false }
    }

    /// A column that may be cut.
    pub(super) const fn long(title: &'static str) -> Self {
        Self { title, right: false, cut: true }
    }
}

/// A cell, which may be painted.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

/// The colour of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    /// It needs a person.
    Alert,
    /// It is under way.
    Busy,
    /// It is over.
    Dim,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Alert => "\x1b[31m",
            Self::Busy => "\x1b[33m",
            Self::Dim => "\x1b[2m",
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: shown(&text.into()), paint: Paint::Plain }
    }
}

impl Cell {
    pub(super) fn painted(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }
}

/// `text` as a terminal may show it: what callers chose must neither move the cursor nor reverse the line.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        // Control characters have no width, and neither have those that turn the direction of a text.
        if char.width().is_some_and(|width| width > 0) {
            shown.push(char);
        } else {
            shown.extend(char.escape_unicode());
        }
    }
    shown
}

/// The lines of a table: the titles, then the rows, each no wider than `width` where columns can be cut.
pub(super) fn lines(columns: &[Column], rows: &[Vec<Cell>], width: Option<usize>, colour: bool) -> Vec<String> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.title.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    if let Some(width) = width {
        fit(columns, &mut widths, width);
    }
    let titles: Vec<Cell> = columns.iter().map(|column| Cell::from(column.title).painted(Paint::Dim)).collect();
    std::iter::once(&titles).chain(rows).map(|row| line(columns, &widths, row, colour)).collect()
}

/// Takes from the widest column that can be cut, until the line fits.
fn fit(columns: &[Column], widths: &mut [usize], width: usize) {
    loop {
        let line: usize = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        let widest = (0..widths.len()).filter(|at| columns[*at].cut && widths[*at] > COLUMN_MIN);
        match widest.max_by_key(|at| widths[*at]) {
            Some(at) if line > width => widths[at] -= 1,
            _ => return,
        }
    }
}

fn line(columns: &[Column], widths: &[usize], row: &[Cell], colour: bool) -> String {
    let mut line = String::new();
    for (at, cell) in row.iter().enumerate() {
        if at > 0 {
            line.push_str(GAP);
        }
        let text = cut(&cell.text, widths[at]);
        let pad = " ".repeat(widths[at] - text.width());
        let is_last = at + 1 == row.len();
        let (before, behind) = if columns[at].right { (pad.as_str(), "") } else { ("", pad.as_str()) };
        line.push_str(before);
        match cell.paint {
            paint if colour && paint != Paint::Plain => {
                line.extend([paint.code(), &text, "\x1b[0m"]);
            }
            _ => line.push_str(&text),
        }
        if !is_last {
            line.push_str(behind);
        }
    }
    line
}

fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut room = width.saturating_sub(1);
    for char in text.chars() {
        let wide = char.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        kept.push(char);
    }
    kept.push(CUT);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::text("PHASE"), Column::number("EPOCH"), Column::long("KEY")];

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::from("unknown").painted(Paint::Alert), "3".into(), "a-key".into()],
            vec!["completed".into(), "12".into(), "k".repeat(100).into()],
        ]
    }

    #[test]
    fn columns_stand_under_their_titles() {
        let all = lines(&COLUMNS, &rows(), None, false);
        assert_eq!(all[0], "PHASE      EPOCH  KEY");
        assert_eq!(all[1], "unknown        3  a-key");
        assert_eq!(all[2], format!("completed     12  {}", "k".repeat(100)));
    }

    #[test]
    fn a_line_fits_its_terminal() {
        for width in [40, 80] {
            let all = lines(&COLUMNS, &rows(), Some(width), false);
            assert!(all.iter().all(|line| line.width() <= width), "{all:?}");
            assert!(all[2].ends_with("k…") && all[2].width() == width);
        }
        // Too narrow for what must not be cut: the line is longer, and nothing is lost but what can be.
        assert!(lines(&COLUMNS, &rows(), Some(5), false)[1].starts_with("unknown        3  a-key"));
    }

    #[test]
    fn only_a_coloured_table_has_colours() {
        assert!(lines(&COLUMNS, &rows(), None, true)[1].starts_with("\x1b[31munknown\x1b[0m"));
        assert!(!lines(&COLUMNS, &rows(), None, false).concat().contains('\x1b'));
    }

    #[test]
    fn nothing_that_a_caller_chose_reaches_the_terminal_as_a_command() {
        let hostile = "a\x1b[2J\r\n\u{202e}\u{200b}b\u{7}";
        let shown = shown(hostile);
        assert!(shown.chars().all(|char| char.width().is_some_and(|width| width > 0)), "{shown:?}");
        assert_eq!(shown, "a\\u{1b}[2J\\u{d}\\u{a}\\u{202e}\\u{200b}b\\u{7}");
        assert_eq!(super::shown("Zoë 東京"), "Zoë 東京");
    }
}
