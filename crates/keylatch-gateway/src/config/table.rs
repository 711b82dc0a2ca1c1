//! A table of the file, read key by key. A key that nothing has asked for is an unknown one.

use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::Mistakes;

/// A value in the file, with its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Range<usize>,
}

/// A table, and the keys that were asked for.
#[derive(Debug)]
pub(crate) struct Table<'t> {
    /// Its name in a mistake, such as ``route `orders` ``.
    pub(crate) name: String,
    pub(crate) at: Range<usize>,
    entries: &'t DeTable<'t>,
    asked: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(crate) fn new(name: impl Into<String>, at: Range<usize>, entries: &'t DeTable<'t>) -> Self {
        Self { name: name.into(), at, entries, asked: Vec::new() }
    }

    /// The value of `key`, if it is there.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.entries.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// The place of the value of `key`, or of the table if there is none.
    pub(crate) fn place(&self, key: &str) -> Range<usize> {
        let found = self.entries.iter().find(|(name, _)| name.get_ref() == key);
        found.map_or_else(|| self.at.clone(), |(_, value)| value.span())
    }

    pub(crate) fn string(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<At<&'t str>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At { value: text, at: value.span() }),
            _ => {
                mistakes.add(&value.span(), self.is_not(key, "text"), format!("write it in quotes: {key} = \"…\""));
                None
            }
        }
    }

    /// The value of `key`, parsed by `parse`, whose error says what to write.
    pub(crate) fn parsed_by<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(key, mistakes)?;
        match parse(text.value) {
            Ok(value) => Some(value),
            Err(fix) => {
                mistakes.add(&text.at, format!("`{key}` of {} cannot be used", self.name), fix);
                None
            }
        }
    }

    pub(crate) fn parsed<T: FromStr<Err = String>>(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<T> {
        self.parsed_by(key, mistakes, str::parse)
    }

    /// A whole number from 0.
    pub(crate) fn number(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<u64> {
        let value = self.get(key)?;
        let number = value.get_ref().as_integer().and_then(|digits| digits.as_str().parse().ok());
        if number.is_none() {
            mistakes.add(&value.span(), self.is_not(key, "a number"), format!("write {key} = 1, without quotes"));
        }
        number
    }

    pub(crate) fn boolean(&mut self, key: &'static str, mistakes: &mut Mistakes) -> bool {
        let Some(value) = self.get(key) else { return false };
        value.get_ref().as_bool().unwrap_or_else(|| {
            mistakes.add(&value.span(), self.is_not(key, "yes or no"), "write true or false, without quotes");
            false
        })
    }

    /// A string or a list of strings; `None` if there is none.
    pub(crate) fn strings(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<Vec<At<&'t str>>> {
        let value = self.get(key)?;
        let one = |value: &'t Spanned<DeValue<'t>>| Some(At { value: value.get_ref().as_str()?, at: value.span() });
        let all: Option<Vec<_>> = match value.get_ref() {
            DeValue::Array(values) => values.iter().map(one).collect(),
            _ => one(value).map(|one| vec![one]),
        };
        if all.is_none() {
            mistakes.add(&value.span(), self.is_not(key, "a list of texts"), format!("write {key} = [\"…\", \"…\"]"));
        }
        all
    }

    /// The table under `key`, with `name` for its mistakes.
    pub(crate) fn table(&mut self, key: &'static str, name: String, mistakes: &mut Mistakes) -> Option<Table<'t>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(entries) => Some(Table::new(name, value.span(), entries)),
            _ => {
                mistakes.add(&value.span(), self.is_not(key, "a table"), format!("write {key} = {{ … }}"));
                None
            }
        }
    }

    /// Its entries, each of which is a table with a name that the user has chosen.
    pub(crate) fn named(&mut self, mistakes: &mut Mistakes, what: &str) -> Vec<(&'t str, Table<'t>)> {
        let mut tables = Vec::new();
        for (name, value) in self.entries {
            match value.get_ref() {
                DeValue::Table(entries) => {
                    let table = Table::new(format!("{what} `{}`", name.get_ref()), name.span(), entries);
                    tables.push((name.get_ref().as_ref(), table));
                }
                _ => mistakes.add(
                    &value.span(),
                    format!("`{}` is not a table", name.get_ref()),
                    format!("write [{what}.NAME]"),
                ),
            }
        }
        tables
    }

    /// Its entries, each of which is a text with a name that the user has chosen.
    pub(crate) fn texts(&mut self, mistakes: &mut Mistakes) -> Vec<(&'t str, At<&'t str>)> {
        let mut texts = Vec::new();
        for (name, value) in self.entries {
            match value.get_ref().as_str() {
                Some(text) => texts.push((name.get_ref().as_ref(), At { value: text, at: value.span() })),
                None => mistakes.add(
                    &value.span(),
                    format!("`{}` of {} is not text", name.get_ref(), self.name),
                    format!("write it in quotes: {} = \"…\"", name.get_ref()),
                ),
            }
        }
        texts
    }

    /// Adds the mistake that `key` is missing.
    pub(crate) fn misses(&self, key: &str, fix: impl Into<String>, mistakes: &mut Mistakes) {
        mistakes.add(&self.at, format!("{} has no `{key}`", self.name), fix);
    }

    /// Adds a mistake for each key that nothing has asked for.
    pub(crate) fn end(self, mistakes: &mut Mistakes) {
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(&name) {
                let fix = match nearest(name, &self.asked) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("take it out; known are {}", self.asked.join(", ")),
                };
                mistakes.add(&key.span(), format!("unknown key `{name}` in {}", self.name), fix);
            }
        }
    }

    fn is_not(&self, key: &str, what: &str) -> String {
        format!("`{key}` of {} is not {what}", self.name)
    }
}

/// The known name that was probably meant.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    /// Less similar names have little in common.
    const ALIKE_MIN: f64 = 0.75;
    let plain = name.to_lowercase().replace('_', "-");
    let alike = known.iter().map(|known| (strsim::jaro_winkler(&plain, known), *known));
    alike.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}
