use super::*;

fn put(key: u8) -> Op {
    Op::Put(vec![key], vec![key])
}

#[test]
fn effects_wait_for_what_was_staged_before_them_and_keep_their_order() {
    let mut gate = Gate::new(7);
    gate.hold("free");
    gate.stage(put(1));
    gate.hold("first");
    gate.hold("second");
    assert_eq!(gate.release(), Some("free"));
    assert_eq!(gate.release(), None);

    let one = gate.seal().unwrap();
    assert_eq!(one.id, BatchId(1));
    assert_eq!(one.ops.last(), Some(&Op::Put(VERSION_KEY.to_vec(), 8u64.to_be_bytes().to_vec())));
    gate.stage(put(2));
    gate.hold("third");
    let two = gate.seal().unwrap();
    assert_eq!(gate.version(), 9);
    assert_eq!(gate.release(), None);

    gate.persisted(one.id).unwrap();
    assert_eq!(gate.release(), Some("first"));
    assert_eq!(gate.release(), Some("second"));
    assert_eq!(gate.release(), None);
    gate.persisted(two.id).unwrap();
    assert_eq!(gate.release(), Some("third"));
    assert!(gate.is_idle());
}

#[test]
fn a_batch_reported_out_of_order_is_the_runtimes_fault() {
    let mut gate: Gate<()> = Gate::new(0);
    assert!(gate.persisted(BatchId(1)).is_err());
    gate.stage(put(1));
    let one = gate.seal().unwrap();
    gate.stage(put(2));
    let two = gate.seal().unwrap();
    assert!(gate.persisted(two.id).is_err());
    gate.persisted(one.id).unwrap();
    assert!(gate.persisted(one.id).is_err());
}

#[test]
fn nothing_staged_seals_nothing() {
    let mut gate: Gate<()> = Gate::new(0);
    assert!(gate.seal().is_none());
    assert_eq!(gate.version(), 0);
}
