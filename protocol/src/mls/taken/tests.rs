use super::{PackageKeys, Taken};

fn keys(leaf: u8, init: u8, signing: u8) -> PackageKeys {
    PackageKeys { sealing: [vec![leaf], vec![init]], signing: vec![signing] }
}

#[test]
fn one_key_in_common_is_enough_whatever_it_is_for() {
    let mut taken = Taken::default();
    taken.take(&keys(1, 2, 3));
    for shared in [keys(1, 5, 6), keys(4, 2, 6), keys(2, 5, 6), keys(4, 1, 6), keys(4, 5, 3)] {
        assert!(taken.has(&shared), "{shared:?}");
    }
    // What is signed with is never encrypted to.
    assert!(!taken.has(&keys(3, 5, 1)));
}
