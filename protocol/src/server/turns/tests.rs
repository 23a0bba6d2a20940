use core::time::Duration;

use super::Turns;
use crate::id::AccountId;
use crate::limits::{COMMIT_LOSSES, COMMIT_TURN, COMMIT_TURN_PAUSE, COMMIT_TURNS};

fn member(number: u8) -> AccountId {
    AccountId([number; 32])
}

const START: Duration = Duration::from_secs(5);

fn lose(turns: &mut Turns, number: u8, at: Duration) {
    for _ in 0..COMMIT_LOSSES {
        turns.lost(member(number), at);
    }
}

#[test]
fn who_lost_often_enough_has_its_turn_until_it_wins() {
    let mut turns = Turns::default();
    for _ in 1..COMMIT_LOSSES {
        turns.lost(member(1), START);
    }
    assert!(turns.may(member(2), START));
    turns.lost(member(1), START);
    assert!(turns.may(member(1), START) && !turns.may(member(2), START));
    turns.won(member(1), START);
    assert!(turns.may(member(2), START));
    // From the start again.
    turns.lost(member(1), START);
    assert!(turns.may(member(2), START));
}

#[test]
fn a_win_in_between_starts_the_count_over() {
    let mut turns = Turns::default();
    for _ in 0..10 {
        turns.lost(member(1), START);
        turns.lost(member(1), START);
        turns.won(member(1), START);
    }
    assert!(turns.may(member(2), START));
}

#[test]
fn a_turn_ends_by_itself_and_who_wasted_it_waits() {
    let mut turns = Turns::default();
    lose(&mut turns, 1, START);
    let end = START + COMMIT_TURN;
    assert!(!turns.may(member(2), end.saturating_sub(Duration::from_millis(1))));
    assert!(turns.may(member(2), end));
    lose(&mut turns, 1, end);
    assert!(turns.may(member(2), end), "it would hold up the group for ever");
    lose(&mut turns, 3, end);
    assert!(!turns.may(member(2), end), "others have theirs");
    turns.won(member(3), end);
    lose(&mut turns, 1, end + COMMIT_TURN_PAUSE);
    assert!(!turns.may(member(2), end + COMMIT_TURN_PAUSE));
}

#[test]
fn it_does_not_grow_without_end() {
    let mut turns = Turns::default();
    for number in 0..=u8::MAX {
        turns.lost(member(number), START);
    }
    assert_eq!(turns.losses.len(), COMMIT_TURNS);
}

#[test]
fn who_lost_in_anothers_turn_is_next() {
    let mut turns = Turns::default();
    for number in [1, 2, 3] {
        lose(&mut turns, number, START);
    }
    let only = |turns: &mut Turns, number, at| {
        let may = (1..5).filter(|other| turns.may(member(*other), at));
        assert_eq!(may.collect::<Vec<_>>(), [number]);
    };
    only(&mut turns, 1, START);
    turns.won(member(1), START);
    only(&mut turns, 2, START);
    // Who has its way in the meantime does not need it.
    turns.won(member(3), START);
    lose(&mut turns, 4, START);
    only(&mut turns, 2, START);
    only(&mut turns, 4, START + COMMIT_TURN);
    turns.won(member(4), START + COMMIT_TURN);
    assert!(turns.may(member(3), START + COMMIT_TURN));
}

#[test]
fn a_turn_that_was_due_long_ago_is_forgotten() {
    let mut turns = Turns::default();
    lose(&mut turns, 1, START);
    lose(&mut turns, 2, START);
    assert!(turns.may(member(3), START + COMMIT_TURN_PAUSE));
    assert!(turns.due.is_empty());
}
