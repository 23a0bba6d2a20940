use super::Overlay;
use crate::store::batch::Op;

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.into(), value.into())
}

fn overlay() -> Overlay {
    Overlay::new(vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())])
}

#[test]
fn changes_are_taken_once_and_in_order() {
    let overlay = overlay();
    overlay.put_raw(b"c", b"3".to_vec());
    overlay.put_raw(b"a", b"9".to_vec());
    overlay.delete_raw(b"b");
    assert_eq!(overlay.take_ops(), [put("a", "9"), Op::Delete(b"b".to_vec()), put("c", "3")]);
    assert_eq!(overlay.take_ops(), []);
    let records = overlay.records();
    assert_eq!(records, [(b"a".to_vec(), b"9".to_vec()), (b"c".to_vec(), b"3".to_vec())]);
}

#[test]
fn what_ends_as_it_was_is_no_change() {
    let overlay = overlay();
    overlay.put_raw(b"c", b"3".to_vec());
    overlay.delete_raw(b"c");
    overlay.put_raw(b"a", b"9".to_vec());
    overlay.put_raw(b"a", b"1".to_vec());
    overlay.delete_raw(b"b");
    overlay.put_raw(b"b", b"2".to_vec());
    overlay.delete_raw(b"never there");
    assert_eq!(overlay.take_ops(), []);
}

#[test]
fn a_failed_step_is_undone_and_those_before_it_stay() {
    let overlay = overlay();
    overlay.put_raw(b"a", b"first".to_vec());
    overlay.settle();
    overlay.put_raw(b"a", b"second".to_vec());
    overlay.delete_raw(b"b");
    overlay.put_raw(b"c", b"3".to_vec());
    overlay.revert();
    assert_eq!(overlay.take_ops(), [put("a", "first")]);
    overlay.revert();
    assert_eq!(overlay.get_raw(b"a").unwrap().as_slice(), b"first");
}

#[test]
fn a_rollback_undoes_every_step_since_the_last_take() {
    let overlay = overlay();
    overlay.put_raw(b"a", b"taken".to_vec());
    overlay.take_ops();
    overlay.put_raw(b"a", b"first".to_vec());
    overlay.settle();
    overlay.put_raw(b"a", b"second".to_vec());
    overlay.delete_raw(b"b");
    overlay.rollback();
    assert_eq!(overlay.take_ops(), []);
    assert_eq!(overlay.get_raw(b"a").unwrap().as_slice(), b"taken");
    assert_eq!(overlay.get_raw(b"b").unwrap().as_slice(), b"2");
}

#[test]
fn keys_are_found_by_their_beginning() {
    let overlay = overlay();
    overlay.put_raw(b"ab", Vec::new());
    assert_eq!(overlay.keys(b"a"), [b"a".to_vec(), b"ab".to_vec()]);
    assert!(overlay.keys(b"c").is_empty());
    assert!(!overlay.is_empty() && Overlay::default().is_empty());
}

#[test]
fn debug_shows_no_content() {
    let overlay = overlay();
    overlay.put_raw(b"secret", b"value".to_vec());
    assert_eq!(format!("{overlay:?}"), "Overlay(3 records, 1 changed)");
}
