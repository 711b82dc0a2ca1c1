//! Multipart bodies without their boundary: a client that builds its form anew for each try may choose another.
//!
//! A body is split only if its handler certainly splits it the same way. So this module follows
//! [RFC 2046, section 5.1.1](https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1) to the letter, and does not split
//! bodies on which parsers may differ although the RFC allows them: text before the first part or after the last, white
//! space after a boundary, parts without headers, line ends that are not CRLF.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::{Fingerprint, Hasher};

/// The longest allowed boundary, in bytes.
const BOUNDARY_BYTES_MAX: usize = 70;

/// The content of a multipart body, without its boundary.
pub(super) struct Multipart {
    /// The content type without the boundary.
    pub(super) content_type: Vec<u8>,
    /// The fingerprint of all parts in their order, each with its headers, and of what follows the last.
    pub(super) parts: Fingerprint,
}

impl Multipart {
    /// The content of a request's body; `None` if the body is not multipart, or is ambiguous.
    pub(super) fn of(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let mut lines = headers.get_all(CONTENT_TYPE).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        if headers.contains_key(CONTENT_ENCODING) {
            return None;
        }
        let (content_type, boundary) = take_boundary(line.as_bytes())?;
        let mut hasher = Hasher::default();
        let end = split(body, boundary, |part| hasher.field(part))?;
        hasher.field(end);
        Some(Self { content_type, parts: hasher.finish() })
    }
}

/// A multipart content type without its boundary, and the boundary; `None` if either is ambiguous.
fn take_boundary(value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (essence, mut rest) = value.split_at(value.iter().position(|byte| *byte == b';')?);
    let essence = essence.trim_ascii();
    let (kind, subtype) = essence.split_at_checked(b"multipart/".len())?;
    if !kind.eq_ignore_ascii_case(b"multipart/") || !is_token(subtype) {
        return None;
    }
    let (mut content_type, mut boundary) = (essence.to_vec(), None);
    while !rest.is_empty() {
        let parameter = rest.strip_prefix(b";")?.trim_ascii_start();
        let (name, value) = parameter.split_at(parameter.iter().position(|byte| *byte == b'=')?);
        let (value, after) = take_value(&value[1..])?;
        if !is_token(name) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"boundary") {
            if boundary.replace(value).is_some() {
                return None;
            }
        } else if name.to_ascii_lowercase().starts_with(b"boundary") {
            // In pieces or with its own character set (RFC 2231), which few parsers support.
            return None;
        } else {
            content_type.push(b';');
            content_type.extend_from_slice(&parameter[..parameter.len() - after.len()]);
        }
        rest = after.trim_ascii_start();
    }
    Some((content_type, boundary.filter(|boundary| is_boundary(boundary))?))
}

/// The value of a parameter without its quotes, and what follows it.
fn take_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        let (value, after) = quoted.split_at(quoted.iter().position(|byte| *byte == b'"')?);
        return (!value.contains(&b'\\')).then_some((value, &after[1..]));
    }
    let (value, after) = text.split_at(text.iter().position(|byte| !is_of_token(*byte)).unwrap_or(text.len()));
    (!value.is_empty()).then_some((value, after))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_of_token(*byte))
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte)
}

fn is_boundary(text: &[u8]) -> bool {
    let may_stand = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(byte);
    (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.iter().all(may_stand) && !text.ends_with(b" ")
}

/// Calls `take` with each part of `body`, headers and content, and returns what follows the last: nothing, or the end
/// of its line. `None` if it is ambiguous where a part begins or ends.
fn split<'b>(body: &'b [u8], boundary: &[u8], mut take: impl FnMut(&'b [u8])) -> Option<&'b [u8]> {
    let delimiter = [b"--", boundary].concat();
    let mut rest = body.strip_prefix(&*delimiter)?;
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            return (end.is_empty() || end == b"\r\n").then_some(end);
        }
        let after = rest.strip_prefix(b"\r\n")?;
        let next = line_with(after, &delimiter)?;
        let part = after[..next].strip_suffix(b"\r\n")?;
        // Without the empty line after its headers, a parser may look for it beyond the end of the part.
        if !part.windows(4).any(|window| window == b"\r\n\r\n") {
            return None;
        }
        take(part);
        rest = &after[next + delimiter.len()..];
    }
}

/// Where the first line starts that begins with `delimiter`, whatever ends the line before. A delimiter contains no
/// line end, so no byte is read more than twice.
fn line_with(text: &[u8], delimiter: &[u8]) -> Option<usize> {
    let ends = text.iter().enumerate().filter(|(_, byte)| matches!(byte, b'\r' | b'\n'));
    let mut starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
    starts.find(|start| text[*start..].starts_with(delimiter))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The parts, and what follows the last.
    fn parts<'b>(body: &'b [u8], boundary: &str) -> Option<(Vec<&'b [u8]>, &'b [u8])> {
        let mut parts = Vec::new();
        let end = split(body, boundary.as_bytes(), |part| parts.push(part))?;
        Some((parts, end))
    }

    fn joined<P: AsRef<[u8]>>(parts: &[P], end: &[u8], boundary: &str) -> Vec<u8> {
        let mut body = format!("--{boundary}").into_bytes();
        for part in parts {
            body.extend([b"\r\n", part.as_ref(), b"\r\n--", boundary.as_bytes()].concat());
        }
        [&body, &b"--"[..], end].concat()
    }

    #[test]
    fn a_content_type_without_its_boundary() {
        let rows: [(&str, Option<(&str, &str)>); 29] = [
            ("multipart/form-data; boundary=x", Some(("multipart/form-data", "x"))),
            ("Multipart/Mixed ;BOUNDARY=\"a b\"", Some(("Multipart/Mixed", "a b"))),
            (
                "multipart/related; type=\"a;b=c\"; boundary=x ; start=1",
                Some(("multipart/related;type=\"a;b=c\";start=1", "x")),
            ),
            (
                "multipart/form-data;boundary=----WebKitFormBoundary7M",
                Some(("multipart/form-data", "----WebKitFormBoundary7M")),
            ),
            ("multipart/form-data; boundary=\"a:/?=(1)',+_.-\"", Some(("multipart/form-data", "a:/?=(1)',+_.-"))),
            ("multipart/form-data", None),
            ("multipart/form-data;", None),
            ("multipart/form-data; charset=utf-8", None),
            ("multipart/form-data; boundary", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"\"", None),
            ("multipart/form-data; boundary=x;", None),
            ("multipart/form-data; boundary=x; boundary=x", None),
            ("multipart/form-data; boundary=x; boundary*=y", None),
            ("multipart/form-data; boundary*0=x", None),
            ("multipart/form-data; boundary=x y", None),
            ("multipart/form-data; boundary=x/y", None),
            ("multipart/form-data; boundary =x", None),
            ("multipart/form-data; boundary= x", None),
            ("multipart/form-data; boundary=\"x", None),
            ("multipart/form-data; boundary=\"x\"y", None),
            ("multipart/form-data; boundary=\"a\\b\"", None),
            ("multipart/form-data; boundary=\"x \"", None),
            ("multipart/form-data; boundary=x*", None),
            ("multipart/form-data, boundary=x", None),
            ("multipart/; boundary=x", None),
            ("multipart; boundary=x", None),
            ("multipart/a/b; boundary=x", None),
            ("text/plain; boundary=x", None),
        ];
        for (value, expected) in rows {
            let taken = take_boundary(value.as_bytes());
            let expected = expected.map(|(rest, boundary)| (rest.as_bytes().to_vec(), boundary.as_bytes()));
            assert_eq!(taken, expected, "{value}");
        }
        let long = |bytes: usize| format!("multipart/form-data; boundary={}", "x".repeat(bytes));
        assert!(take_boundary(long(70).as_bytes()).is_some() && take_boundary(long(71).as_bytes()).is_none());
    }

    #[test]
    fn a_body_is_split_where_there_is_no_doubt() {
        type Split<'t> = (&'t [&'t str], &'t str);
        let rows: [(&str, Option<Split<'_>>); 24] = [
            ("--b\r\nA: 1\r\n\r\none\r\n--b--\r\n", Some((&["A: 1\r\n\r\none"], "\r\n"))),
            ("--b\r\nA: 1\r\n\r\none\r\n--b--", Some((&["A: 1\r\n\r\none"], ""))),
            (
                "--b\r\nA: 1\r\n\r\n\r\n--b\r\nB: 2\r\n\r\n\r\n\r\n--b--",
                Some((&["A: 1\r\n\r\n", "B: 2\r\n\r\n\r\n"], "")),
            ),
            ("--b--\r\n", Some((&[], "\r\n"))),
            // Inside of a part, a boundary is one only where a line begins.
            (
                "--b\r\nA: 1\r\n\r\none--b\r\n --b\r\nb\r\n--\r\n-b\r\n--b--",
                Some((&["A: 1\r\n\r\none--b\r\n --b\r\nb\r\n--\r\n-b"], "")),
            ),
            ("", None),
            ("--b", None),
            ("--b\r\n", None),
            ("--b\r\n--b--", None),
            ("--c\r\nA: 1\r\n\r\none\r\n--c--", None),
            ("--b\r\nA: 1\r\n\r\none", None),
            ("--b\r\nA: 1\r\n\r\none\r\n--b", None),
            ("--b\r\nA: 1\r\n\r\none\r\n--b\r\n", None),
            ("--b\r\nA: 1\r\n\r\none\r\n--b-", None),
            // Text around the parts.
            ("\r\n--b\r\nA: 1\r\n\r\none\r\n--b--", None),
            ("for old readers\r\n--b\r\nA: 1\r\n\r\none\r\n--b--", None),
            ("--b\r\nA: 1\r\n\r\none\r\n--b--\r\nmore", None),
            // Parsers differ on these.
            ("--b \r\nA: 1\r\n\r\none\r\n--b--", None),
            ("--b\r\nA: 1\r\n\r\none\r\n--bc\r\n--b--", None),
            ("--b\r\nA: 1\r\n\r\none\r\n--b--c\r\n--b--", None),
            ("--b\nA: 1\n\none\n--b--", None),
            ("--b\r\nA: 1\r\n\r\none\n--b--", None),
            ("--b\r\nA: 1\r\n\r\none\r--b--", None),
            ("--b\r\nA: 1\r\n--b\r\nB: 2\r\n\r\ntwo\r\n--b--", None),
        ];
        for (body, expected) in rows {
            let expected =
                expected.map(|(parts, end)| (parts.iter().map(|part| part.as_bytes()).collect(), end.as_bytes()));
            assert_eq!(parts(body.as_bytes(), "b"), expected, "{body:?}");
        }
    }

    #[test]
    fn only_a_plain_body_with_one_content_type_is_split() {
        let body = b"--b\r\nA: 1\r\n\r\none\r\n--b--";
        let mut headers = HeaderMap::new();
        assert!(Multipart::of(&headers, body).is_none());
        let multipart = HeaderValue::from_static("multipart/form-data; boundary=b");
        headers.insert(CONTENT_TYPE, multipart.clone());
        assert!(Multipart::of(&headers, body).is_some());
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(Multipart::of(&headers, body).is_none());
        headers.remove(CONTENT_ENCODING);
        headers.append(CONTENT_TYPE, multipart);
        assert!(Multipart::of(&headers, body).is_none());
    }

    proptest! {
        /// So two bodies with the same parts differ in nothing but their boundary.
        #[test]
        fn what_is_split_is_all_of_the_body(pieces in vec(0..8_usize, 0..40)) {
            const PIECES: [&str; 8] = ["--b", "--b", "\r\n", "\r\n\r\n", "--", "\n", "A", "\r"];
            let body = ["--b\r\n".to_owned(), pieces.iter().map(|piece| PIECES[*piece]).collect()].concat();
            for body in [body.as_bytes(), &joined(&[&body], b"", "b"), &joined(&["A\r\n\r\n", &body], b"\r\n", "b")] {
                if let Some((parts, end)) = parts(body, "b") {
                    prop_assert_eq!(joined(&parts, end, "b"), body);
                }
            }
        }

        #[test]
        fn the_boundary_does_not_count(contents in vec(vec(any::<u8>(), 0..60), 0..5)) {
            let made: Vec<Vec<u8>> = contents.iter().map(|content| [b"A: 1\r\n\r\n", &content[..]].concat()).collect();
            for boundary in ["a-long-boundary-that-chance-does-not-make", "and another of (them)"] {
                let body = joined(&made, b"\r\n", boundary);
                let expected = made.iter().map(|part| &part[..]).collect();
                prop_assert_eq!(parts(&body, boundary), Some((expected, &b"\r\n"[..])));
            }
        }
    }
}
