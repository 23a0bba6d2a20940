use super::*;
use crate::crypto::portable;

/// Contents that are looked for in the same place: they differ in their middle alone.
fn meeting(number: u8) -> Vec<u8> {
    let mut content = vec![7; SHORTEST];
    content[SHORTEST / 2] = number;
    content
}

#[test]
fn a_hash_is_that_of_its_content_wherever_it_is_kept() {
    let hashes = Hashes::of_tree(FEWEST_LEAVES).unwrap();
    let spread = (0..200_u8).map(|number| vec![number; SHORTEST + usize::from(number)]);
    let meeting = (0..2 * PLACES as u8).map(meeting);
    let contents: Vec<_> = spread.chain(meeting).chain([Vec::new(), vec![1; 10]]).collect();
    for _ in 0..2 {
        for content in &contents {
            assert_eq!(hashes.hash(portable(), content), portable().sha256(&[content]));
        }
    }
    assert!(place(&contents[200]) == place(&contents[201]));
}

#[test]
fn what_was_hashed_is_remembered() {
    let hashes = Hashes::of_tree(FEWEST_LEAVES).unwrap();
    let kept = |hashes: &Hashes| hashes.0.iter().filter(|place| place.get().is_some()).count();
    for _ in 0..3 {
        hashes.hash(portable(), &meeting(1));
        hashes.hash(portable(), &meeting(2));
    }
    assert_eq!(kept(&hashes), 2);
    for number in 0..50 {
        hashes.hash(portable(), &meeting(number));
    }
    assert_eq!(kept(&hashes), PLACES);
    assert!(Hashes::of_tree(FEWEST_LEAVES - 1).is_none());
}
