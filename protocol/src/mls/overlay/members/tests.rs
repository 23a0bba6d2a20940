use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn list(members: &BTreeMap<u32, Vec<u8>>) -> Members {
    let mut list = Members::default();
    members.iter().for_each(|(leaf, member)| list.push(*leaf, member));
    list
}

fn members() -> impl Strategy<Value = BTreeMap<u32, Vec<u8>>> {
    btree_map(0..12_u32, vec(0..3_u8, 1..3), 0..12)
}

proptest! {
    #[test]
    fn a_list_comes_back_from_others_and_what_tells_it_from_them(
        this in members(),
        others in members(),
    ) {
        let exceptions = list(&this).exceptions(&list(&others));
        let again = Members::restore(&list(&others), &exceptions);
        let each: BTreeMap<_, _> = again.each().map(|(leaf, member)| (leaf, member.to_vec())).collect();
        prop_assert_eq!(&each, &this);
        prop_assert!(again.bytes() == list(&this).bytes());
        let same = |leaf: &u32| this.get(leaf) == others.get(leaf);
        prop_assert!(!exceptions.keys().any(same));
    }
}

#[test]
fn a_leaf_that_looks_otherwise_is_no_member() {
    let mut list = Members::default();
    list.push_leaf(1, &[0]);
    list.push_leaf(2, &[1, 9, 9]);
    list.push_leaf(3, &[]);
    assert_eq!((list.len(), list.bytes()), (0, &[][..]));
    // Two keys of one byte, a basic credential of two.
    list.push_leaf(300, &[1, 1, 0xE, 1, 0x5, 0, 2, 8, 9, 77]);
    assert_eq!(list.bytes(), [0xAC, 2, 0, 2, 8, 9, 1, 0xE, 1, 0x5]);
}
