//! What is too long for a frame: commits that travel as blobs, and logs that are read after a long time away.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::{BLOB_CHUNK, INLINE_BYTES, LINKS_PER_CONNECTION, TRANSFER_TRIES};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, EntryKind, Failure, Frame, Part, Push, Reply, Request};
use qpc_sim::world::{Remains, Rules, World};

/// Accounts whose devices are registered and switched off; all of them together make a hybrid commit of two chunks.
const ACCOUNTS: usize = 8;
const DEVICES: usize = 14;

/// Alice's hybrid group with bob and carol, and a crowd to invite.
fn crowd(seed: u64) -> (World, ChannelId) {
    static MADE: OnceLock<(Remains, ChannelId)> = OnceLock::new();
    let (remains, channel) = MADE.get_or_init(make_crowd);
    let mut world = World::from(Rules::new(seed), remains);
    for device in [ALICE, BOB, CAROL] {
        world.start(device);
    }
    world.settle();
    (world, *channel)
}

fn make_crowd() -> (Remains, ChannelId) {
    let mut world = World::new(Rules::new(0));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_in(&mut world, Suite::Hybrid, ALICE, &["bob", "carol"]);
    for device in [ALICE, BOB, CAROL] {
        world.crash(device);
    }
    for account in 0..ACCOUNTS {
        let name = format!("crowd{account}");
        for number in 0..DEVICES {
            let device = if number == 0 { world.register(&name) } else { world.login(&name) };
            world.crash(device);
        }
    }
    (world.remains(), channel)
}

/// Lets a liar at the frames, once alice has been kept from reading her group's log for a second: in it she gathers the
/// key packages of the whole crowd, and adds them all in one commit.
fn gather(
    world: &mut World,
    channel: ChannelId,
    mut with: impl FnMut(usize, bool, Frame) -> Vec<Frame> + 'static,
) {
    let mut kept = None;
    world.liar = Some(Box::new(move |device, up, mut frame| {
        if device == ALICE && up && kept.is_none() {
            let wanted = |of: &ChannelId| *of == channel;
            if matches!(&frame.body, Body::Request(Request::Subscribe { channel, .. }) if wanted(channel))
            {
                kept = Some(frame.call);
                frame.body = Body::Request(Request::Ping("not yet".into()));
            }
        }
        if let (ALICE, false, Body::Reply(Reply::Pong(pong))) = (device, up, &frame.body)
            && pong == "not yet"
        {
            let failure = Failure::from(ErrorCode::Unavailable);
            frame.body = Body::Failure(Failure { retry_after_ms: 1_000, ..failure });
        }
        with(device, up, frame)
    }));
    world.cut(ALICE);
}

/// Invites the whole crowd at once.
fn invite(world: &mut World, channel: ChannelId) -> Vec<Ticket> {
    let invite = |account: usize| {
        let name = format!("crowd{account}");
        world.command(ALICE, |client, now| client.invite(now, channel, &name))
    };
    (0..ACCOUNTS).map(invite).collect()
}

/// The same, and goes on until everybody is in.
fn invite_crowd(world: &mut World, channel: ChannelId) {
    for ticket in invite(world, channel) {
        assert!(matches!(world.outcome(ALICE, ticket), Outcome::Epoch(_)));
    }
}

fn everybody() -> u32 {
    u32::try_from(3 + ACCOUNTS * DEVICES).unwrap()
}

#[derive(Default)]
struct Seen {
    /// Bytes of chunks sent up, by blob, and how long each blob is.
    put: BTreeMap<Digest, (u64, u64)>,
    /// Up to where blobs went up, as it happened.
    steps: Vec<u64>,
    /// Longest commit in a frame to a device.
    inline: usize,
    /// Commits of the log that name a blob, by device.
    named: BTreeMap<usize, u32>,
}

/// Watches what goes over the wire.
fn watch(world: &mut World, channel: ChannelId) -> Rc<RefCell<Seen>> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let all = seen.clone();
    gather(world, channel, move |device, _, frame| {
        see(&mut all.borrow_mut(), device, &frame);
        vec![frame]
    });
    seen
}

fn see(seen: &mut Seen, device: usize, frame: &Frame) {
    match &frame.body {
        Body::Request(Request::BlobPut { hash, total, offset, chunk }) => {
            seen.steps.push(offset + chunk.len() as u64);
            let put = seen.put.entry(*hash).or_insert((0, *total));
            put.0 += chunk.len() as u64;
        }
        Body::Push(Push::Entries(entries)) => {
            for entry in entries.entries.iter().filter(|entry| entry.kind == EntryKind::Commit) {
                match &entry.payload {
                    Part::Inline(bytes) => seen.inline = seen.inline.max(bytes.len()),
                    Part::Blob { .. } => *seen.named.entry(device).or_default() += 1,
                }
            }
        }
        _ => {}
    }
}

#[test]
fn a_commit_longer_than_a_frame_should_be_goes_as_a_blob_and_is_read_by_all() {
    let (mut world, channel) = crowd(1);
    let seen = watch(&mut world, channel);
    world.crash(CAROL);
    invite_crowd(&mut world, channel);
    said(&mut world, BOB, channel, "so many");
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
    assert_eq!(world.group(BOB, channel).members, everybody());
    // Who was away reads it later, and so does one of the many.
    world.start(CAROL);
    let one = 3 + DEVICES;
    world.start(one);
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL, one]);
    said(&mut world, one, channel, "all here");
    world.settle();
    assert_eq!(world.bodies(CAROL), ["so many", "all here"]);
    assert_eq!(world.bodies(ALICE), ["so many", "all here"]);
    {
        let seen = seen.borrow();
        assert!(seen.inline <= INLINE_BYTES);
        assert_eq!(seen.named[&BOB], 1);
        assert_eq!(seen.named[&CAROL], 1);
        for (hash, (put, total)) in &seen.put {
            assert!(*total > INLINE_BYTES as u64, "{hash:?}");
            assert_eq!(put, total, "every byte goes up once");
        }
    }
    // Nothing of the upload stays on the disk.
    assert!(!world.devices[ALICE].disk.keys().any(|key| key.starts_with(b"b/")));
}

#[test]
fn an_upload_goes_on_where_it_stopped_across_cuts_and_crashes() {
    let (mut world, channel) = crowd(2);
    let seen = watch(&mut world, channel);
    invite(&mut world, channel);
    // Nobody hears of a chunk or a commit before the second time that it is sent.
    let mut stops = BTreeSet::new();
    while world.group(ALICE, channel).members < everybody() {
        assert!(stops.len() < 20);
        let before = stops.len();
        world.until(|world| {
            stops.extend(seen.borrow_mut().steps.drain(..));
            stops.len() > before || world.group(ALICE, channel).members == everybody()
        });
        world.cut(ALICE);
        if stops.len() % 2 == 0 {
            world.crash(ALICE);
            world.start(ALICE);
        }
    }
    world.settle();
    assert!(stops.len() >= 3, "{stops:?}");
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    assert_eq!(world.group(CAROL, channel).members, everybody());
    let seen = seen.borrow();
    let (hash, (put, total)) = seen.put.iter().max_by_key(|(_, (_, total))| *total).unwrap();
    // A chunk whose answer was lost is not sent again, nor is what came before it.
    assert!(*total > BLOB_CHUNK as u64, "{hash:?}");
    assert_eq!(put, total);
}

#[test]
fn a_wrong_blob_is_the_servers_fault_and_loses_nothing() {
    let (mut world, channel) = crowd(3);
    // The first tries are spoilt, of bob's blobs only; one byte in the second chunk.
    let spoilt = Rc::new(RefCell::new(0));
    let count = spoilt.clone();
    gather(&mut world, channel, move |device, _, mut frame| {
        if let (BOB, Body::Reply(Reply::Blob { chunk, total })) = (device, &mut frame.body)
            && *total > BLOB_CHUNK as u64
            && chunk.len() < BLOB_CHUNK
            && *count.borrow() < TRANSFER_TRIES - 1
        {
            let mut other = chunk.to_vec();
            other[7] ^= 1;
            *chunk = other.into();
            *count.borrow_mut() += 1;
        }
        vec![frame]
    });
    invite_crowd(&mut world, channel);
    said(&mut world, ALICE, channel, "behind it");
    world.until(|world| !world.bodies(BOB).is_empty());
    assert_eq!(*spoilt.borrow(), TRANSFER_TRIES - 1);
    assert!(saw(&world, BOB, suspected));
    assert!(!saw(&world, BOB, |event| matches!(event, Event::Unreadable { .. })));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    assert_eq!(world.bodies(BOB), ["behind it"]);
    assert!(!saw(&world, CAROL, suspected));
}

#[test]
fn a_blob_that_is_never_right_or_gone_stops_its_group_only_until_the_next_session() {
    let (mut world, channel) = crowd(4);
    let second = group_of(&mut world, CAROL, &["bob"]);
    let mut refuse = Vec::new();
    let gone = Rc::new(RefCell::new(false));
    let is_gone = gone.clone();
    gather(&mut world, channel, move |device, up, mut frame| {
        if device != BOB {
            return vec![frame];
        }
        if up && matches!(frame.body, Body::Request(Request::BlobGet { .. })) {
            refuse.push(frame.call);
        }
        if !up && *is_gone.borrow() && refuse.contains(&frame.call) {
            frame.body = Body::Failure(ErrorCode::BlobUnknown.into());
        } else if let Body::Reply(Reply::Blob { total, .. }) = &mut frame.body {
            *total += 1;
        }
        vec![frame]
    });
    let unreadable =
        |event: &Event| matches!(event, Event::Unreadable { channel: of, .. } if *of == channel);
    for is_lost in [false, true] {
        *gone.borrow_mut() = is_lost;
        if is_lost {
            world.cut(BOB);
        } else {
            invite_crowd(&mut world, channel);
        }
        world.devices[BOB].log.clear();
        world.until(|world| saw(world, BOB, unreadable));
        // Elsewhere life goes on.
        said(&mut world, CAROL, second, "elsewhere");
        world.until(|world| world.bodies(BOB).contains(&"elsewhere".to_owned()));
        assert!(world.group(BOB, channel).members < everybody());
    }
    world.liar = None;
    said(&mut world, ALICE, channel, "behind it");
    world.cut(BOB);
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    assert_eq!(world.bodies(BOB).last().map(String::as_str), Some("behind it"));
}

#[test]
fn a_blob_that_the_server_loses_is_uploaded_again_and_a_server_that_loses_all_is_not_fed_for_ever()
{
    for losses in [1, u32::MAX] {
        let (mut world, channel) = crowd(5);
        let mut commits = Vec::new();
        let asked = Rc::new(RefCell::new(0));
        let count = asked.clone();
        gather(&mut world, channel, move |device, up, mut frame| {
            let large = |request: &Request| matches!(request, Request::Commit(bundle) if bundle.blobs().next().is_some());
            if device == ALICE && up && matches!(&frame.body, Body::Request(r) if large(r)) {
                *count.borrow_mut() += 1;
                if *count.borrow() <= losses {
                    // The server does not get to see it.
                    commits.push(frame.call);
                    frame.body = Body::Request(Request::Ping("lost".into()));
                }
            }
            if device == ALICE && !up && commits.contains(&frame.call) {
                frame.body = Body::Failure(ErrorCode::BlobUnknown.into());
            }
            vec![frame]
        });
        if losses == 1 {
            invite_crowd(&mut world, channel);
            world.settle();
            assert_eq!(*asked.borrow(), 2);
            assert_eq!(world.group(BOB, channel).members, everybody());
        } else {
            let last = invite(&mut world, channel).pop().unwrap();
            let failed = world.failure(ALICE, last);
            assert_eq!(code(&failed), ErrorCode::BlobUnknown);
            assert_eq!(*asked.borrow(), TRANSFER_TRIES);
            assert!(!world.devices[ALICE].disk.keys().any(|key| key.starts_with(b"b/")));
            said(&mut world, ALICE, channel, "without them");
        }
        world.settle();
        agree(&world, channel, &[ALICE, BOB, CAROL]);
    }
}

#[test]
fn every_joiner_gets_a_welcome_with_its_own_secret_alone() {
    let mut world = World::new(Rules::new(6));
    let names = ["alice", "bob", "carol", "dave", "erin", "frank"];
    for name in names {
        world.register(name);
    }
    let welcomes = Rc::new(RefCell::new(BTreeMap::<usize, Vec<u8>>::new()));
    let seen = welcomes.clone();
    let sent = Rc::new(RefCell::new(Vec::new()));
    let bundles = sent.clone();
    world.liar = Some(Box::new(move |device, _, frame| {
        match &frame.body {
            Body::Push(Push::Entries(entries)) => {
                for entry in entries.entries.iter().filter(|e| e.kind == EntryKind::Welcome) {
                    let Part::Inline(bytes) = &entry.payload else { panic!("{entry:?}") };
                    seen.borrow_mut().insert(device, bytes.to_vec());
                }
            }
            Body::Request(Request::Commit(bundle)) => {
                let adds = bundle.welcome.as_ref().map(|welcome| welcome.len());
                bundles.borrow_mut().extend(adds);
            }
            _ => {}
        }
        vec![frame]
    }));
    let channel = found(&mut world, ALICE, Suite::Classical);
    let invited: Vec<_> = names[1..]
        .iter()
        .map(|name| world.command(ALICE, |client, now| client.invite(now, channel, name)))
        .collect();
    for ticket in invited {
        world.outcome(ALICE, ticket);
    }
    world.settle();
    agree(&world, channel, &[0, 1, 2, 3, 4, 5]);
    let welcomes = welcomes.borrow();
    assert_eq!(welcomes.len(), 5);
    let longest = *sent.borrow().iter().max().unwrap();
    // At least four came by one commit, whose welcome is longer than what any of them got.
    let lengths: Vec<_> = welcomes.values().map(Vec::len).collect();
    assert!(lengths.iter().all(|len| (*len as u64) < longest - 3 * 100), "{lengths:?} {longest}");
    let different: BTreeSet<_> = welcomes.values().collect();
    assert_eq!(different.len(), 5);
}

/// A catch-up ran past the epoch window (mdk #1171): fifty commits interleaved with messages, read in one go by a
/// device long away.
#[test]
fn regression_21_fifty_commits_and_the_messages_between_them_are_read_in_one_go() {
    let (mut world, channel) = three(21);
    world.crash(CAROL);
    let mut bodies = Vec::new();
    for round in 0..50 {
        let who = round % 2;
        // One of the two may be sealed in the epoch before the commit and stand behind it in the log.
        let texts = [format!("round {round}"), format!("meanwhile {round}")];
        let first = say(&mut world, who, channel, &texts[0]);
        let second = say(&mut world, 1 - who, channel, &texts[1]);
        world.done(who, |client, now| client.update(now, channel));
        for (device, ticket, text) in [(who, first, &texts[0]), (1 - who, second, &texts[1])] {
            let Outcome::Sent(sent) = world.outcome(device, ticket) else { panic!() };
            bodies.push((sent.accepted.seq, text.clone()));
        }
    }
    bodies.sort();
    let bodies: Vec<_> = bodies.into_iter().map(|(_, text)| text).collect();
    let epoch = world.group(ALICE, channel).epoch;
    assert!(epoch >= 50, "{epoch}");
    world.start(CAROL);
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    assert_eq!(world.bodies(CAROL), bodies);
    undisturbed(&world, &[ALICE, BOB, CAROL]);
    said(&mut world, CAROL, channel, "caught up");
    world.settle();
    assert_eq!(world.bodies(ALICE).last().map(String::as_str), Some("caught up"));
}

// ---- links and connections --------------------------------------------------------------------

/// The connection breaks in the moment in which the last of a tree has arrived.
#[test]
fn a_tree_that_is_whole_when_the_connection_breaks_is_used_and_not_asked_for_again() {
    let mut world = World::new(Rules::new(22));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let mut trees = 0;
    lie(&mut world, BOB, false, move |frame| {
        let tree = matches!(frame.body, Body::Reply(Reply::Blob { .. }));
        trees += u32::from(tree);
        assert!(trees < 2, "asked for again");
        let broken = Frame { call: 0, body: Body::Request(Request::Health) };
        if tree { vec![frame, broken] } else { vec![frame] }
    });
    let channel = group_of(&mut world, ALICE, &["bob"]);
    assert!(saw(&world, BOB, |e| matches!(e, Event::ServerFault { .. })));
    assert!(!saw(&world, BOB, |event| suspected(event) || forked(event)));
    agree(&world, channel, &[ALICE, BOB]);
}

/// A commit that names no blob cannot lack one.
#[test]
fn a_server_that_misses_a_blob_of_a_commit_without_any_ends_the_wish() {
    let (mut world, channel) = three(23);
    let mut commits = Vec::new();
    world.liar = Some(Box::new(move |device, up, mut frame| {
        if (device, up) == (ALICE, true) && matches!(frame.body, Body::Request(Request::Commit(_)))
        {
            // The server does not get to see it.
            commits.push(frame.call);
            frame.body = Body::Request(Request::Ping("lost".into()));
        }
        if (device, up) == (ALICE, false) && commits.contains(&frame.call) {
            frame.body = Body::Failure(ErrorCode::BlobUnknown.into());
        }
        vec![frame]
    }));
    let failed = fails(&mut world, ALICE, |client, now| client.update(now, channel));
    assert_eq!(code(&failed), ErrorCode::BlobUnknown);
    world.liar = None;
    world.done(ALICE, |client, now| client.update(now, channel));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// Who logs out in the middle of a transfer leaves no link open behind it.
#[test]
fn logging_out_and_in_again_uses_up_no_links() {
    let (mut world, channel) = three(24);
    lie(&mut world, BOB, true, |frame| match &frame.body {
        Body::Request(Request::BlobGet { .. }) => vec![],
        _ => vec![frame],
    });
    let made = world.done(ALICE, |c, now| c.create_group(now, "second", Suite::Classical));
    let Outcome::Group(second) = made else { panic!("{made:?}") };
    world.done(ALICE, |client, now| client.invite(now, second, "bob"));
    for _ in 0..2 * LINKS_PER_CONNECTION {
        world.done(BOB, |client, now| client.logout(now));
        world.pass(Duration::from_millis(1));
        let password = "password of bob".to_owned();
        world.done(BOB, |client, now| client.login(now, "bob", password.into()));
        world.pass(Duration::from_millis(1));
    }
    assert!(!saw(&world, BOB, |e| matches!(e, Event::Offline { .. })));
    honest(&mut world, &[BOB]);
    world.settle();
    agree(&world, second, &[ALICE, BOB]);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}
