//! Lists of places, and a long run of all calls against the contract's pure functions.

use super::*;

/// Pages show each place once, in order, and only those that were asked for.
pub async fn pages_show_every_place_once<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    let mut names = Vec::new();
    for consumer in ["b", "a", "aa"] {
        for (topic, partition) in [("orders", 10), ("orders", 9), ("o", 0)] {
            names.push(PlaceName::new(consumer, topic, partition).expect("a valid place"));
        }
    }
    let mut places = BTreeMap::new();
    for name in &names {
        places.insert(name.clone(), take(&store, name).await.0);
    }
    let operator: &dyn Places = &store;
    let list = async |consumer: Option<&str>, limit| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = PlacesRequest { consumer: consumer.map(str::to_owned), after, limit };
            let page = operator.places(page).await.expect("the store lists").value;
            assert!(page.items.len() <= limit);
            found.extend(page.items);
            match page.next {
                None => return found,
                Some(next) => after = Some(next.to_string().parse::<Cursor>().expect("a cursor can be read")),
            }
        }
    };
    for limit in [1, 2, 100, 2 * PAGE_RECORDS_MAX] {
        assert_eq!(list(None, limit).await, places.values().cloned().collect::<Vec<_>>());
        let of_a: Vec<_> = places.values().filter(|place| place.name.consumer() == "a").cloned().collect();
        assert_eq!(list(Some("a"), limit).await, of_a);
    }
    assert!(list(Some("nobody"), 1).await.is_empty());
}

/// A cursor of another list is refused.
pub async fn strange_cursor_is_refused<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    let id = DeadLetterId { place: place_of(0), offset: 0, digest: digest("m") };
    for strange in [Cursor::new([]).expect("short"), Cursor::new([0xff; 100]).expect("short"), id.cursor()] {
        let page = PlacesRequest { after: Some(strange), limit: 1, ..PlacesRequest::default() };
        assert_eq!(store.places(page).await.expect_err("it is another list's").kind(), ErrorKind::Refused);
    }
    for strange in [Cursor::new([]).expect("short"), place_of(0).cursor()] {
        let page = DeadLettersRequest { after: Some(strange), limit: 1, ..DeadLettersRequest::default() };
        assert_eq!(store.dead_letters(page).await.expect_err("it is another list's").kind(), ErrorKind::Refused);
    }
}

/// Whatever is done to a place, by owners old and new, it becomes what the pure functions of the contract make of it.
pub async fn places_change_as_the_contract_says<H: InboxHarness>(harness: &H) {
    const CALLS: usize = 600;
    let store = harness.transactional();
    let name = place_of(0);
    let mut random = Random(0x006b_6579_6c61_7463);
    let mut model: Option<Place> = None;
    let mut owners = vec![Ownership { place: name.clone(), epoch: Epoch::FIRST, owner: Owner::random() }];
    let started = Arc::new(AtomicUsize::new(0));
    let mut seen = BTreeMap::new();
    for _ in 0..CALLS {
        harness.advance(MS).await;
        let now = Subject::new(harness).now().await;
        let ownership = owners[owners.len() - 1 - random.below(owners.len().min(3))].clone();
        let at = model.as_ref().and_then(|place| place.next);
        let from = if random.below(4) == 0 { Some(i64::try_from(random.below(6)).expect("small")) } else { at };
        let to = from.unwrap_or(0) + i64::try_from(random.below(3)).expect("small");
        let step = Step { last: None, ..Step { from, ..step(from.unwrap_or(to), to) } };
        let advanced =
            |model: &Option<Place>| model.as_ref().and_then(|place| inbox::advance(place, &ownership, &step, now));
        let kind = random.below(7);
        let (next, applied) = match kind {
            0 => {
                let owner = if random.below(2) == 0 { ownership.owner } else { Owner::random() };
                let taken = store.take(name.clone(), owner).await.expect("the store takes").value;
                let expected = inbox::take(model.as_ref(), &name, owner, now);
                assert_eq!(taken, expected);
                owners.push(taken.ownership().expect("it is owned"));
                (Some(expected), None)
            }
            1 => (advanced(&model), Some(store.advance(ownership.clone(), step).await)),
            2 => {
                let seen = if random.below(3) == 0 { None } else { Some(ownership.epoch) };
                (
                    inbox::move_to(model.as_ref(), &name, seen, to, now),
                    Some(store.move_to(name.clone(), seen, to).await),
                )
            }
            3 => {
                let given = model.as_ref().and_then(|place| inbox::give_back(place, &ownership, now));
                (given, Some(store.give_back(ownership.clone()).await))
            }
            4 => {
                let expected = model.as_ref().and_then(|place| inbox::begin_try(place, &ownership, to, now));
                let tried = store.begin_try(ownership.clone(), to).await.expect("the store counts");
                assert_eq!(tried, expected.as_ref().and_then(|place| place.tried).map(|tried| tried.attempts));
                (expected, None)
            }
            5 => (advanced(&model), Some(store.bury(ownership.clone(), to, trouble("m"), Some(step), none()).await)),
            _ => {
                // A batch that was committed is not committed again, although its step may be repeated.
                let begins = model.as_ref().is_some_and(|place| place.is_of(&ownership) && place.next == step.from);
                let counter = started.clone();
                let part = Part::<DatabaseOf<H>> {
                    ids: vec![None],
                    start: Box::new(move |_, _| {
                        counter.fetch_add(1, Ordering::Relaxed);
                        Box::pin(async { commit("done") })
                    }),
                };
                let before = started.load(Ordering::Relaxed);
                let batch = Batch { ownership: ownership.clone(), step: Some(step), letter: None, parts: vec![part] };
                let end = apply(&store, batch).await;
                let expected = if begins { all_applied() } else { BatchEnd::Lost(model.clone()) };
                assert_eq!(end, expected);
                assert_eq!(started.load(Ordering::Relaxed), before + usize::from(begins));
                (advanced(&model).filter(|_| begins), None)
            }
        };
        if let Some(applied) = applied {
            let expected = if next.is_some() { Applied::Applied(now) } else { Applied::Lost };
            assert_eq!(applied.expect("the store answers"), expected, "call {kind} with {step:?} of {model:?}");
        }
        *seen.entry((kind, next.is_some())).or_insert(0) += 1;
        model = next.or(model);
        assert_eq!(store.place(name.clone()).await.expect("the store reads").value, model);
    }
    // Each call had an effect, and each that can be lost was lost.
    assert_eq!(seen.len(), 13, "{seen:?}");
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}
