use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::env::UnixMillis;
use crate::id::{AccountId, DeviceId, MessageId, Sender};
use crate::wire::message::{EntryKind, Part};

const CHANNEL: ChannelId = ChannelId([1; 16]);

fn entry(seq: u64, text: u8) -> Entry {
    Entry {
        seq,
        kind: EntryKind::Application,
        generation: 1,
        epoch: 2,
        sender: Sender { account: AccountId([3; 32]), device: DeviceId([4; 16]) },
        message: MessageId([5; 16]),
        time: UnixMillis(6),
        origin: None,
        payload: Part::Inline(Bytes::copy_from_slice(&[text])),
    }
}

fn read(to: u64) -> Cursor {
    let mut cursor = Cursor::start(CHANNEL);
    for seq in 1..=to {
        assert_eq!(cursor.advance(&entry(seq, 0)), Ok(Step::Next));
    }
    cursor
}

/// The chain of a log of which every entry has the text 0, by definition rather than by cursor.
fn chain_at(seq: u64) -> Digest {
    (1..=seq).fold(chain::start(CHANNEL), |before, seq| chain::next(before, &entry(seq, 0)))
}

#[test]
fn entries_in_order_move_the_cursor() {
    let cursor = read(5);
    assert_eq!((cursor.seq(), cursor.chain()), (5, chain_at(5)));
}

#[test]
fn a_gap_names_what_is_missing_and_changes_nothing() {
    let mut cursor = read(2);
    let before = cursor.clone();
    assert_eq!(cursor.advance(&entry(4, 0)), Ok(Step::Gap { from: 3, to: 3 }));
    assert_eq!(cursor.advance(&entry(9, 0)), Ok(Step::Gap { from: 3, to: 8 }));
    let end = entry(u64::MAX, 0);
    assert_eq!(cursor.advance(&end), Ok(Step::Gap { from: 3, to: u64::MAX - 1 }));
    assert_eq!(cursor, before);
}

#[test]
fn an_entry_read_before_changes_nothing() {
    let mut cursor = read(5);
    let before = cursor.clone();
    for seq in 1..=5 {
        assert_eq!(cursor.advance(&entry(seq, 0)), Ok(Step::Duplicate));
    }
    assert_eq!(cursor, before);
}

#[test]
fn an_entry_that_changed_since_is_a_fork() {
    let mut cursor = read(5);
    let before = cursor.clone();
    for seq in 1..=5 {
        assert_eq!(cursor.advance(&entry(seq, 1)), Err(Forked { seq }));
    }
    assert_eq!(cursor.advance(&entry(0, 0)), Err(Forked { seq: 0 }));
    assert_eq!(cursor, before);
}

#[test]
fn every_field_of_an_entry_is_held_to() {
    let changes: [fn(&mut Entry); 9] = [
        |entry| entry.kind = EntryKind::Proposal,
        |entry| entry.generation += 1,
        |entry| entry.epoch += 1,
        |entry| entry.sender.account = AccountId([9; 32]),
        |entry| entry.sender.device = DeviceId([9; 16]),
        |entry| entry.message = MessageId([9; 16]),
        |entry| entry.time.0 += 1,
        |entry| {
            let (channel, tree) = (CHANNEL, Digest([0; 32]));
            entry.origin = Some(crate::wire::message::Origin {
                channel,
                seq: 1,
                chain: tree,
                tree,
                tree_len: 0,
            });
        },
        |entry| entry.payload = Part::Inline(Bytes::new()),
    ];
    let mut cursor = read(3);
    for change in changes {
        let mut changed = entry(3, 0);
        change(&mut changed);
        assert_eq!(cursor.advance(&changed), Err(Forked { seq: 3 }));
    }
}

#[test]
fn only_so_much_is_kept() {
    let kept = CHAINS_KEPT as u64;
    let mut cursor = read(kept + 10);
    assert_eq!(cursor.behind.len(), CHAINS_KEPT);
    // The value before the last one kept is needed to check an entry.
    assert_eq!(cursor.advance(&entry(11, 1)), Err(Forked { seq: 11 }));
    assert_eq!(cursor.advance(&entry(10, 1)), Ok(Step::Duplicate));
    assert_eq!(cursor.compare(10, chain_at(10)), Ok(Agreement::Same));
    assert_eq!(cursor.compare(10, Digest([0; 32])), Err(Forked { seq: 10 }));
    assert_eq!(cursor.compare(9, Digest([0; 32])), Ok(Agreement::TooOld));
}

#[test]
fn others_words_are_compared() {
    let cursor = read(5);
    for seq in 0..=5 {
        assert_eq!(cursor.compare(seq, chain_at(seq)), Ok(Agreement::Same), "{seq}");
        assert_eq!(cursor.compare(seq, Digest([0; 32])), Err(Forked { seq }));
    }
    assert_eq!(cursor.compare(6, Digest([0; 32])), Ok(Agreement::Ahead));
}

#[test]
fn a_cursor_can_start_where_a_welcome_leads() {
    let mut cursor = Cursor::at(3, chain_at(3));
    assert_eq!(cursor.advance(&entry(4, 0)), Ok(Step::Next));
    assert_eq!(cursor.chain(), chain_at(4));
    assert_eq!(cursor.compare(3, chain_at(3)), Ok(Agreement::Same));
    assert_eq!(cursor.compare(2, Digest([0; 32])), Ok(Agreement::TooOld));
    assert_eq!(cursor.advance(&entry(2, 1)), Ok(Step::Duplicate));
}

#[test]
fn channels_have_chains_of_their_own() {
    let mut other = Cursor::start(ChannelId([2; 16]));
    assert_eq!(other.advance(&entry(1, 0)), Ok(Step::Next));
    assert_ne!(other.chain(), chain_at(1));
}

#[test]
fn a_log_cut_before_the_cursor_has_lost_nothing() {
    let cursor = read(5);
    for (first, lost) in [(0, false), (1, false), (6, false), (7, true), (u64::MAX, true)] {
        assert_eq!(cursor.has_lost(first), lost, "{first}");
    }
}

#[test]
fn the_end_of_all_numbers_is_no_trouble() {
    let mut cursor = Cursor::at(u64::MAX, Digest([0; 32]));
    assert_eq!(cursor.advance(&entry(u64::MAX, 0)), Ok(Step::Duplicate));
    assert_eq!(cursor.advance(&entry(1, 0)), Ok(Step::Duplicate));
    assert!(!cursor.has_lost(u64::MAX));
}

#[test]
fn it_survives_its_record() {
    let cursor = read(70);
    let bytes = postcard::to_allocvec(&cursor).unwrap();
    let mut restored = postcard::from_bytes::<Cursor>(&bytes).unwrap();
    // The nearest links only: a record is written with every batch.
    assert_eq!(restored.behind.len(), CHAINS_STORED);
    assert_eq!((restored.seq(), restored.chain()), (cursor.seq(), cursor.chain()));
    assert_eq!(restored.compare(65, Digest([0; 32])), Err(Forked { seq: 65 }));
    assert_eq!(restored.advance(&entry(71, 0)), Ok(Step::Next));
    assert_eq!(restored.chain(), chain_at(71));
}

proptest! {
    /// Deliver in any order, any number of times, fetching every gap that is named: each entry is taken in exactly
    /// once, in order, and the chain comes out as if nothing had happened.
    #[test]
    fn any_delivery_comes_out_in_order(
        length in 1u64..30,
        arrivals in prop::collection::vec(1u64..30, 0..60),
    ) {
        let mut cursor = Cursor::start(CHANNEL);
        let mut taken = Vec::new();
        for seq in arrivals.into_iter().map(|seq| seq.min(length)).chain([length]) {
            let wanted = match cursor.advance(&entry(seq, 0)).unwrap() {
                Step::Gap { from, to } => {
                    prop_assert_eq!((from, to), (cursor.seq() + 1, seq - 1));
                    from..=seq
                }
                Step::Next => {
                    taken.push(seq);
                    continue;
                }
                Step::Duplicate => continue,
            };
            for seq in wanted {
                prop_assert_eq!(cursor.advance(&entry(seq, 0)), Ok(Step::Next));
                taken.push(seq);
            }
        }
        prop_assert_eq!(taken, (1..=length).collect::<Vec<_>>());
        prop_assert_eq!(cursor.chain(), chain_at(length));
    }

    /// Two readers of logs that part at one entry find it out by comparing at any seq from there on that both know.
    #[test]
    fn two_logs_that_part_are_told_apart(length in 1u64..40, at in 1u64..40, asked in 0u64..40) {
        let (at, asked) = (at.min(length), asked.min(length));
        let one = read(length);
        let mut other = Cursor::start(CHANNEL);
        let mut chains = vec![other.chain()];
        for seq in 1..=length {
            prop_assert_eq!(other.advance(&entry(seq, u8::from(seq == at))), Ok(Step::Next));
            chains.push(other.chain());
        }
        let said = one.compare(asked, chains[usize::try_from(asked).unwrap()]);
        let truth = if asked < at { Ok(Agreement::Same) } else { Err(Forked { seq: asked }) };
        prop_assert_eq!(said, truth);
    }
}
