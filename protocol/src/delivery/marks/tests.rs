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
