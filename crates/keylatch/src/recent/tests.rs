use super::*;
use crate::{Key, Scope};

fn id(key: usize) -> RecordId {
    RecordId::of(&Scope::new("caller").unwrap(), &Key::new(&key.to_string()).unwrap())
}

fn request(path: &str, body: &str) -> (Fingerprint, Parts) {
    let mut parts = Parts::default();
    parts.add(Part::Method, Some(b"POST"));
    parts.add(Part::Path, Some(path.as_bytes()));
    parts.add(Part::Query, None);
    parts.add(Part::Body, Some(body.as_bytes()));
    (Fingerprint::of([path.as_bytes(), body.as_bytes()]), parts)
}

fn answered(recent: &Recent, (fingerprint, parts): &(Fingerprint, Parts), what: What) {
    recent.answered(id(1), (*fingerprint, Some(parts)), what, Duration::ZERO);
}

/// What was noted of the last event that differs.
fn differing(recent: &Recent) -> Option<Vec<&'static str>> {
    let What::Mismatch { differs } = recent.of(id(1)).unwrap().events.last().unwrap().what else {
        panic!("no mismatch")
    };
    differs.map(|differs| differs.parts().map(Part::name).collect())
}

const MISMATCH: What = What::Mismatch { differs: None };
const BEGAN: What = What::Began;

#[test]
fn records_and_events_are_bounded() {
    for records_max in [2, 3, 40, 1_000] {
        let recent = Recent::new(records_max);
        for key in 0..5_000 {
            recent.saw(id(key), BEGAN);
            assert!(recent.records() <= records_max, "{} of {records_max}", recent.records());
        }
        // The latest is always there.
        assert_eq!(recent.of(id(4_999)).unwrap().events.len(), 1);
        assert_eq!(recent.of(id(0)), None);
    }
    let recent = Recent::new(10);
    for nth in 0..100 {
        recent.saw(id(1), if nth % 2 == 0 { What::Replayed } else { What::InProgress });
    }
    let Sightings { events, forgotten } = recent.of(id(1)).unwrap();
    assert_eq!(events.len(), RECENT_EVENTS_MAX);
    assert_eq!(forgotten as usize, 100 - RECENT_EVENTS_MAX);
    assert_eq!(events.last().unwrap().what, What::InProgress);
}

#[test]
fn a_record_that_is_seen_again_stays() {
    let recent = Recent::new(64);
    recent.saw(id(0), BEGAN);
    for key in 1..1_000 {
        recent.saw(id(key), BEGAN);
        recent.saw(id(0), What::Replayed);
    }
    let events = recent.of(id(0)).unwrap().events;
    assert_eq!((events[0].what, events[1].what, events[1].times), (BEGAN, What::Replayed, 999));
}

#[test]
fn equal_events_in_a_row_are_one() {
    let recent = Recent::new(10);
    let order = request("/orders", "a");
    for waited in [1, 3, 2] {
        recent.answered(id(1), (order.0, Some(&order.1)), What::Replayed, Duration::from_secs(waited));
    }
    answered(&recent, &order, What::InProgress);
    answered(&recent, &order, What::Replayed);
    let events = recent.of(id(1)).unwrap().events;
    assert_eq!(events.iter().map(|event| event.times).collect::<Vec<_>>(), [3, 1, 1]);
    assert_eq!(events[0].waited_max, Duration::from_secs(3));
    assert!(events[0].first_at <= events[0].last_at && events[0].last_at <= events[1].first_at);
}

#[test]
fn it_says_which_part_differed() {
    let recent = Recent::new(10);
    let (first, other) = (request("/orders", "a"), request("/orders", "b"));
    recent.begins(id(1), (first.0, Some(first.1)), BEGAN);
    answered(&recent, &other, MISMATCH);
    assert_eq!(differing(&recent), Some(vec!["body"]));
    answered(&recent, &request("/invoices", "b"), MISMATCH);
    assert_eq!(differing(&recent), Some(vec!["path", "body"]));
    let mut with_query = request("/orders", "a");
    with_query.0 = Fingerprint::of([b"with a query".as_slice()]);
    with_query.1.add(Part::Query, Some(b""));
    answered(&recent, &with_query, MISMATCH);
    assert_eq!(differing(&recent), Some(vec!["query"]), "an empty query is not an absent one");
}

#[test]
fn it_does_not_guess_which_part_differed() {
    let (first, other) = (request("/orders", "a"), request("/orders", "b"));
    // It never saw the request that has the key.
    let recent = Recent::new(10);
    answered(&recent, &other, MISMATCH);
    assert_eq!(differing(&recent), None);
    // A request that was refused for another reason does not have the key.
    answered(&recent, &first, What::InProgress);
    answered(&recent, &other, MISMATCH);
    assert_eq!(differing(&recent), None);
    // The request with the key did not come by HTTP.
    recent.begins(id(1), (first.0, None), BEGAN);
    answered(&recent, &other, MISMATCH);
    assert_eq!(differing(&recent), None);
    // The key has changed its owner elsewhere.
    recent.begins(id(1), (other.0, Some(other.1)), BEGAN);
    answered(&recent, &other, MISMATCH);
    assert_eq!(differing(&recent), None);
    // A replay shows who has it.
    answered(&recent, &first, What::Replayed);
    answered(&recent, &other, MISMATCH);
    assert_eq!(differing(&recent), Some(vec!["body"]));
}

#[test]
fn it_shows_no_identity() {
    let recent = Recent::new(10);
    recent.saw(id(1), BEGAN);
    assert_eq!(format!("{recent:?}"), "Recent { records: 1, .. }");
}
