//! Canonical JSON, for fingerprints: the order of names, white space and the spelling of numbers do not matter.
//!
//! A body that two parsers could read as different values is not canonicalised at all: its bytes are compared. That is
//! the safe side: it can lead to a 422, and never to another request's answer.
//!
//! The body is checked once and then walked once. The members of an object are written as they appear and sorted when
//! the object ends, so nothing is read again for each enclosing level.

use std::borrow::Cow;
use std::io::Write;
use std::ops::Range;

use serde_json::value::RawValue;

/// The largest power of ten in a number that is canonicalised: every number that fits into 64 bits, floating or not, is
/// within it.
const EXPONENT_MAX: i64 = 400;

/// The canonical form of `body`; `None` if it is not JSON, has duplicate names, lone surrogates or numbers out of range,
/// or nests more than `depth_max` levels deep.
pub fn canonical(body: &[u8], depth_max: usize) -> Option<Vec<u8>> {
    let checked: &RawValue = serde_json::from_slice(body).ok()?;
    let mut walk = Walk { json: checked.get(), at: 0, text: Vec::with_capacity(body.len()), moved: Vec::new() };
    walk.value(depth_max)?;
    Some(walk.text)
}

/// A walk over JSON that is known to be well-formed.
struct Walk<'b> {
    json: &'b str,
    at: usize,
    /// The canonical form, so far.
    text: Vec<u8>,
    /// Buffer for sorting the members of an object.
    moved: Vec<u8>,
}

/// A member of an object: the ranges of its name and of the whole member in the canonical form.
struct Member {
    name: Range<usize>,
    whole: Range<usize>,
}

impl<'b> Walk<'b> {
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.skip_to()? {
            b'{' => self.object(depth.checked_sub(1)?),
            b'[' => self.array(depth.checked_sub(1)?),
            b'"' => self.string(),
            _ => {
                let rest = &self.json[self.at..];
                let ends = |byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                let word = &rest[..rest.bytes().position(ends).unwrap_or(rest.len())];
                self.at += word.len();
                if word.starts_with(['t', 'f', 'n']) {
                    self.text.extend_from_slice(word.as_bytes());
                } else {
                    number(word, &mut self.text)?;
                }
                Some(())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.pass(b'[');
        while self.skip_to()? != b']' {
            self.value(depth)?;
            self.text.push(b',');
            self.skip_comma()?;
        }
        self.pass(b']');
        Some(())
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.pass(b'{');
        let mut members: Vec<Member> = Vec::new();
        let mut in_order = true;
        while self.skip_to()? != b'}' {
            let starts = self.text.len();
            self.string()?;
            let name = starts..self.text.len();
            self.skip_to()?;
            self.pass(b':');
            self.value(depth)?;
            self.text.push(b',');
            self.skip_comma()?;
            in_order &= members.last().is_none_or(|last| self.text[last.name.clone()] < self.text[name.clone()]);
            members.push(Member { name, whole: starts..self.text.len() });
        }
        if !in_order {
            self.put_in_order(&mut members)?;
        }
        self.pass(b'}');
        Some(())
    }

    /// Sorts the members that were written last by their names; `None` if a name occurs twice.
    fn put_in_order(&mut self, members: &mut [Member]) -> Option<()> {
        let Self { text, moved, .. } = self;
        let starts = members.first()?.whole.start;
        members.sort_unstable_by(|a, b| text[a.name.clone()].cmp(&text[b.name.clone()]));
        if members.windows(2).any(|pair| text[pair[0].name.clone()] == text[pair[1].name.clone()]) {
            return None;
        }
        moved.clear();
        members.iter().for_each(|member| moved.extend_from_slice(&text[member.whole.clone()]));
        text[starts..].copy_from_slice(moved);
        Some(())
    }

    /// A string or a name, in the canonical spelling of its characters.
    fn string(&mut self) -> Option<()> {
        let rest = &self.json.as_bytes()[self.at..];
        let (mut ends, mut escaped) = (1, false);
        loop {
            match rest.get(ends)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    ends += 2;
                }
                _ => ends += 1,
            }
        }
        let raw = &self.json[self.at..=self.at + ends];
        self.at += ends + 1;
        if escaped {
            let value: Cow<'_, str> = serde_json::from_str(raw).ok()?;
            serde_json::to_writer(&mut self.text, &value).ok()?;
        } else {
            self.text.extend_from_slice(raw.as_bytes());
        }
        Some(())
    }

    /// Skips white space. Returns the byte after it.
    fn skip_to(&mut self) -> Option<u8> {
        let rest = &self.json.as_bytes()[self.at..];
        let spaces = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))?;
        self.at += spaces;
        rest.get(spaces).copied()
    }

    fn skip_comma(&mut self) -> Option<()> {
        if self.skip_to()? == b',' {
            self.at += 1;
        }
        Some(())
    }

    /// Skips `punctuation` and writes it.
    fn pass(&mut self, punctuation: u8) {
        debug_assert_eq!(self.json.as_bytes().get(self.at), Some(&punctuation));
        self.at += 1;
        self.text.push(punctuation);
    }
}

/// Writes the canonical spelling of a decimal number: its digits without zeros at either end, and a power of ten. It is
/// exact, so two numbers that are equal only in floating point stay different.
fn number(raw: &str, text: &mut Vec<u8>) -> Option<()> {
    let (sign, unsigned) = raw.strip_prefix('-').map_or(("", raw), |unsigned| ("-", unsigned));
    let (decimal, power) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    text.extend_from_slice(sign.as_bytes());
    let leading = digits().take_while(|digit| *digit == b'0').count();
    let trailing = digits().rev().take_while(|digit| *digit == b'0').count();
    let all = whole.len() + fraction.len();
    if leading == all {
        text.push(b'0');
        return Some(());
    }
    let significant = all - leading - trailing;
    let power = power.parse::<i64>().ok()?;
    let power = power.checked_add(i64::try_from(trailing).ok()?)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    if power.abs() > EXPONENT_MAX || significant as i64 > EXPONENT_MAX {
        return None;
    }
    text.extend(digits().skip(leading).take(significant));
    write!(text, "e{power}").ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    const DEPTH_MAX: usize = 32;

    fn canonical(body: &[u8]) -> Option<Vec<u8>> {
        super::canonical(body, DEPTH_MAX)
    }

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
            r#"{"b":1,"a":2,"b":3}"#,
            r#"{"":1,"":1}"#,
            r#"[{"a":{"c":1,"c":1}}]"#,
            r#"{"\ud800":1}"#,
            "[1,]",
            "[1 2]",
            "01",
            "-",
            "\"\u{1}\"",
        ];
        for body in doubtful {
            assert_eq!(canonical(body.as_bytes()), None, "{body}");
        }
        assert_eq!(canonical(b"\"\xff\""), None);
    }

    /// Any JSON, with some names that need escapes.
    fn json() -> impl Strategy<Value = Value> {
        let name = prop_oneof!["[a-c]{0,2}", "[\"\\\\\u{e9}\n ]{1,2}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Never a whole number, which has the form of an integer.
            any::<i32>().prop_map(|whole| Value::from(f64::from(whole) + 0.5)),
            name.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(name.clone(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// `value`, with the members of each object in reverse order, and spaces between everything.
    fn reversed(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members = members.iter().rev();
                let members =
                    members.map(|(name, value)| format!("{} :\t{}", Value::from(name.as_str()), reversed(value)));
                format!(" {{ {} }} ", members.collect::<Vec<_>>().join(" ,\n"))
            }
            Value::Array(values) => format!("[ {} ]", values.iter().map(reversed).collect::<Vec<_>>().join(" , ")),
            leaf => leaf.to_string(),
        }
    }

    proptest! {
        #[test]
        fn the_same_value_has_one_form_and_another_has_another(a in json(), b in json()) {
            let text = |value: &Value| serde_json::to_vec(value).unwrap();
            let form = canonical(&text(&a)).expect("nothing in it leaves doubt");
            prop_assert_eq!(&canonical(reversed(&a).as_bytes()), &Some(form.clone()));
            prop_assert_eq!(Some(form) == canonical(&text(&b)), a == b);
        }
    }

    /// The form of a large, deeply nested body has everything once, and sorted on each level.
    #[test]
    fn a_large_body_is_walked_whole() {
        let member = |nth: usize| format!(r#""{nth:06}":true,"#);
        let sorted = (0..50_000).map(member).collect::<String>();
        let backwards = (0..50_000).rev().map(member).collect::<String>();
        let depth = DEPTH_MAX - 1;
        let body =
            [&r#"{"b":"#.repeat(depth), "{", backwards.trim_end_matches(','), "}", &r#","a":true}"#.repeat(depth)]
                .concat();
        let form = [&r#"{"a":true,"b":"#.repeat(depth), "{", &sorted, "}", &",}".repeat(depth)].concat();
        assert!(canonical(body.as_bytes()) == Some(form.into_bytes()));
    }
}
