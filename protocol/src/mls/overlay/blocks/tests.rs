use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A vector in blocks of these bytes. Few values, so that blocks are often the same, and shifted ones too.
fn cut(blocks: &[Vec<u8>]) -> Cut {
    let mut cut = Cut { per: 1, ..Cut::default() };
    for block in blocks {
        cut.bytes.extend_from_slice(block);
        cut.ends.push(cut.bytes.len());
        cut.len += 1;
    }
    cut
}

fn blocks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(0..2_u8, 0..150), 0..8)
}

proptest! {
    #[test]
    fn blocks_outside_of_those_that_may_differ_do_not(one in blocks(), other in blocks()) {
        let (one, other) = (cut(&one), cut(&other));
        let differing = one.differing(&other);
        for at in 0..one.ends.len().max(other.ends.len()) {
            prop_assert!(one.block(at) == other.block(at) || differing.contains(&at));
        }
    }

    #[test]
    fn one_changed_block_is_the_only_one_that_may_differ(
        all in vec(vec(1..3_u8, 1..150), 1..8),
        new in vec(4..6_u8, 1..150),
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(all.len());
        let mut changed = all.clone();
        changed[at] = new;
        prop_assert_eq!(cut(&all).differing(&cut(&changed)), at..at + 1);
        prop_assert!(cut(&all).differing(&cut(&all)).is_empty());
    }
}

#[test]
fn many_blocks_have_the_sum_of_each() {
    let block = |at: u32| ((7, 1, at), Zeroizing::new(at.to_be_bytes().repeat(256)));
    for many in [0, 1, 9, 300] {
        let blocks: Vec<_> = (0..many).map(block).collect();
        let each = blocks.iter().map(|(name, block)| Sum::of(*name, block));
        assert!(sum_of(&blocks) == each.fold(Sum::default(), Sum::plus));
    }
    let blocks: Vec<_> = (0..300).map(block).collect();
    assert!(blocks.iter().map(|(_, block)| block.len()).sum::<usize>() >= SHARED);
    let mut wrong = blocks.clone();
    wrong[299].1[0] ^= 1;
    assert!(sum_of(&blocks) != sum_of(&wrong));
}
