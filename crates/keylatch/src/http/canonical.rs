//! Canonical JSON, for fingerprints: the order of names, white space and the spelling of numbers do not matter.
//!
//! What two readers could take for different values is not canonicalised at all: then its bytes count as they are.
//! That errs on the safe side, towards 422, and never towards another request's answer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting that is canonicalised. Each level is read once more than the one around it.
const DEPTH_MAX: usize = 32;
/// The largest power of ten in a number that is canonicalised: all that fits into 64 bits, floating or not, does.
const EXPONENT_MAX: i64 = 400;

/// The canonical form of `body`; `None` if it is not JSON, or has duplicate names, lone surrogates, numbers out of
/// range, or nests too deep.
pub(super) fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    let value: &RawValue = serde_json::from_slice(body).ok()?;
    let mut text = Vec::with_capacity(body.len());
    write(value, DEPTH_MAX, &mut text)?;
    Some(text)
}

fn write(value: &RawValue, depth: usize, text: &mut Vec<u8>) -> Option<()> {
    let raw = value.get();
    match raw.as_bytes().first()? {
        b'{' => {
            let Members(members) = serde_json::from_str(raw).ok()?;
            text.push(b'{');
            for (name, value) in members {
                serde_json::to_writer(&mut *text, &name).ok()?;
                text.push(b':');
                write(value, depth.checked_sub(1)?, text)?;
                text.push(b',');
            }
            text.push(b'}');
        }
        b'[' => {
            let values: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
            text.push(b'[');
            for value in values {
                write(value, depth.checked_sub(1)?, text)?;
                text.push(b',');
            }
            text.push(b']');
        }
        b'"' => {
            let value: String = serde_json::from_str(raw).ok()?;
            serde_json::to_writer(text, &value).ok()?;
        }
        b't' | b'f' | b'n' => text.extend_from_slice(raw.as_bytes()),
        _ => text.extend_from_slice(number(raw)?.as_bytes()),
    }
    Some(())
}

/// The one spelling of a decimal number: its digits without zeros at either end, and a power of ten. It is exact, so
/// that two numbers which only a floating-point reader takes for the same stay different.
fn number(raw: &str) -> Option<String> {
    let (sign, unsigned) = raw.strip_prefix('-').map_or(("", raw), |unsigned| ("-", unsigned));
    let (decimal, power) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some(format!("{sign}0"));
    }
    let zeros = digits.len() - digits.trim_end_matches('0').len();
    let power = power.parse::<i64>().ok()?;
    let power = power.checked_add(i64::try_from(zeros).ok()?)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let in_range = power.abs() <= EXPONENT_MAX && significant.len() as i64 <= EXPONENT_MAX;
    in_range.then(|| format!("{sign}{significant}e{power}"))
}

/// An object, each of whose names stands in it once.
struct Members<'b>(BTreeMap<String, &'b RawValue>);

impl<'b> Deserialize<'b> for Members<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Unique)
    }
}

struct Unique;

impl<'b> Visitor<'b> for Unique {
    type Value = Members<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object without duplicate names")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut access: A) -> Result<Members<'b>, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = access.next_entry()? {
            match members.entry(name) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(_) => return Err(A::Error::custom("a name stands twice")),
            };
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let (a, b) = (canonical(a.as_bytes()), canonical(b.as_bytes()));
        a.is_some() && a == b
    }

    #[test]
    fn order_space_and_spelling_do_not_matter() {
        assert!(same(r#"{"a":1,"b":[true,null,"x"]}"#, " { \"b\" : [ true , null , \"x\" ] ,\n \"a\" : 1 } "));
        assert!(same(r#""\u0041\n""#, "\"A\\u000a\""));
        for (a, b) in
            [("10", "10.00"), ("10", "1e1"), ("1E+2", "100"), ("0.10", "0.1"), ("0", "0.0e7"), ("-2.50", "-25e-1")]
        {
            assert!(same(a, b), "{a} is {b}");
        }
    }

    #[test]
    fn different_values_stay_different() {
        let values = [
            "1",
            "-1",
            "0",
            "-0",
            "10",
            "0.1",
            "0.1000000000000000055511151231257827",
            "true",
            "\"1\"",
            "\"true\"",
            "null",
            "\"\"",
            "[]",
            "[1]",
            "[[1]]",
            "[1,1]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"b":1}"#,
            r#"["a",1]"#,
            r#"{"a":{}}"#,
        ];
        for (at, a) in values.iter().enumerate() {
            for b in &values[at + 1..] {
                assert!(!same(a, b), "{a} is not {b}");
            }
        }
    }

    #[test]
    fn what_leaves_doubt_is_not_canonicalised() {
        let deep = format!("{}1{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1));
        let long = "1".repeat(500);
        let doubtful = [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#""\ud800""#,
            "1e401",
            "1e99999999999999999999",
            &long,
            &deep,
            "",
            "{",
            "1 2",
            "{a:1}",
            "\u{feff}1",
        ];
        for body in doubtful {
            assert_eq!(canonical(body.as_bytes()), None, "{body}");
        }
        assert_eq!(canonical(b"\"\xff\""), None);
    }
}
