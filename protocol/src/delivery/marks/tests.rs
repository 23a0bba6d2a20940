use super::*;

#[test]
fn the_last_ones_are_remembered_and_no_others() {
    let chain = |seq: u64| Digest::of(&[&seq.to_be_bytes()]);
    let mut marks = Marks::default();
    let most = MARKS_KEPT as u64 + 3;
    for seq in 1..=most * MARK_EVERY + 5 {
        assert_eq!(marks.note(seq, chain(seq)), seq.is_multiple_of(MARK_EVERY), "{seq}");
    }
    assert_eq!(marks.last(), Some((most * MARK_EVERY, chain(most * MARK_EVERY))));
    assert_eq!(marks.at(3 * MARK_EVERY), None, "one too many");
    for kept in 4..=most {
        assert_eq!(marks.at(kept * MARK_EVERY), Some(chain(kept * MARK_EVERY)));
        assert_eq!(marks.at(kept * MARK_EVERY + 1), None);
    }
    // What was read stays as it was read.
    assert!(!marks.note(most * MARK_EVERY, Digest([0; 32])));
    assert_eq!(marks.at(most * MARK_EVERY), Some(chain(most * MARK_EVERY)));
}

/// Beside the ones that everybody remembers; in order, and as bounded.
#[test]
fn the_place_where_reading_ended_is_remembered_too() {
    let chain = |seq: u64| Digest::of(&[&seq.to_be_bytes()]);
    let mut marks = Marks::default();
    marks.keep(0, chain(0));
    assert_eq!(marks.last(), None, "there was nothing to read");
    for round in 1..=MARKS_KEPT as u64 {
        marks.note(round * MARK_EVERY, chain(round * MARK_EVERY));
        marks.keep(round * MARK_EVERY, chain(1));
        marks.keep(round * MARK_EVERY + 3, chain(round));
    }
    assert_eq!(marks.0.len(), MARKS_KEPT);
    let last = MARKS_KEPT as u64 * MARK_EVERY;
    assert_eq!(
        (marks.at(last), marks.at(last + 3)),
        (Some(chain(last)), Some(chain(last / MARK_EVERY)))
    );
    assert!(marks.0.iter().is_sorted_by_key(|(seq, _)| *seq));
}
