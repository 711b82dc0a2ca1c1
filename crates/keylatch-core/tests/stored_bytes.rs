//! Every format that was ever written can still be read: the files in `fixtures` are stored bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use keylatch_core::store::Notes;
use keylatch_core::{Body, Outcome};

fn with_body(status: StatusCode, body: Body) -> Outcome {
    Outcome { status, headers: Vec::new(), body }
}

/// The contents of each outcome's file.
fn outcomes() -> Vec<(&'static str, Outcome)> {
    let every_byte = Body::Kept((0..=u8::MAX).collect());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::LINK, HeaderValue::from_static("</b>; rel=\"next\"")),
        (header::LINK, HeaderValue::from_static("</a>; rel=\"prev\"")),
        (header::LOCATION, HeaderValue::from_bytes(b"/caf\xe9").expect("a value")),
        (HeaderName::from_static("x-empty"), HeaderValue::from_static("")),
    ];
    vec![
        (
            "outcome.v1.order",
            Outcome {
                headers: headers.into(),
                ..with_body(StatusCode::CREATED, Body::Kept(Bytes::from_static(b"{\"id\":1}")))
            },
        ),
        ("outcome.v1.empty", with_body(StatusCode::NO_CONTENT, Body::Kept(Bytes::new()))),
        ("outcome.v1.every-byte", with_body(StatusCode::OK, every_byte)),
        ("outcome.v1.not-retained", with_body(StatusCode::OK, Body::NotRetained { digest: None })),
        ("outcome.v1.digest", with_body(StatusCode::BAD_GATEWAY, Body::NotRetained { digest: Some([0xd1; 32]) })),
    ]
}

/// The contents of each file of a run's notes.
fn notes() -> Vec<(&'static str, Notes)> {
    let step = |name: &str, result: &'static [u8]| (name.to_owned(), Bytes::from_static(result));
    vec![
        (
            "notes.v1.steps",
            Notes {
                steps: vec![
                    step("charge", b"{\"paid\":true}"),
                    step("", b""),
                    step("caf\u{e9} \u{1f511}", b"\x00\xff"),
                ],
                ..Notes::default()
            },
        ),
        ("notes.v1.released", Notes { released: true, ..Notes::default() }),
        ("notes.v1.after-crash", Notes { steps: vec![step("mail", b"sent")], after_crash: true, ..Notes::default() }),
    ]
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The stored bytes of each file.
fn stored() -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory()).expect("the fixtures are there");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("a fixture");
        let name = entry.file_name().into_string().expect("a plain name");
        (name, fs::read(entry.path()).expect("a fixture can be read"))
    };
    files.map(read).collect()
}

#[test]
fn every_stored_outcome_still_loads() {
    let stored = stored();
    for (name, outcome) in outcomes() {
        assert_eq!(Outcome::decode(&stored[name]), Ok(outcome), "{name}");
    }
}

#[test]
fn every_stored_note_still_loads() {
    let stored = stored();
    for (name, notes) in notes() {
        assert_eq!(Notes::decode(Some(&stored[name])), Ok(notes), "{name}");
    }
}

/// Format 1 is still written unchanged. A format 2 adds its files here, and this test names it.
#[test]
fn format_1_is_what_is_written() {
    let stored = stored();
    for (name, outcome) in outcomes() {
        assert_eq!(outcome.encode(), stored[name], "{name}");
    }
    for (name, notes) in notes() {
        assert_eq!(notes.encode().expect("there is something to store"), stored[name], "{name}");
    }
}

#[test]
fn no_file_is_forgotten() {
    let known: Vec<_> =
        outcomes().into_iter().map(|(name, _)| name).chain(notes().into_iter().map(|(name, _)| name)).collect();
    for name in stored().keys() {
        assert!(known.contains(&name.as_str()), "{name} is not in the tests");
    }
}
