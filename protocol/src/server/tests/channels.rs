use super::device::*;
use super::harness::*;
use crate::delivery::{chain, proof::proof_statement};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest};
use crate::limits;
use crate::mls::data::GroupData;
use crate::mls::group::{Plan, Received};
use crate::server::audit::AuditKind;
use crate::wire::message::{
    ChannelKind, CommitBundle, Entries, EntryKind, Part, Push, Reply, Request, Submit,
};

pub(super) const CHANNEL: ChannelId = ChannelId([3; 16]);

/// Alice and Bob in a group, both at epoch 1.
pub(super) fn pair(world: &mut World) -> (Device, Device) {
    let mut alice = Device::new(world, "alice");
    let mut bob = Device::new(world, "bob");
    bob.upload(world, 10);
    alice.found(world, CHANNEL);
    alice.invite(world, CHANNEL, bob.id());
    bob.join(world);
    (alice, bob)
}

#[test]
fn a_group_is_founded_grows_and_talks() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let request = alice.message(&world, CHANNEL, "hello bob");
    let sent = accepted(world.call(alice.link, request.clone()));
    assert_eq!(sent.seq, 2);
    let audited = world.audit.last().unwrap();
    assert_eq!((audited.kind, audited.channel), (AuditKind::Submit, Some(CHANNEL)));
    assert_eq!((audited.device, audited.error), (Some(alice.sender().device), None));
    let entries = bob.read(&mut world, CHANNEL, 1);
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!((entry.seq, entry.kind, entry.sender), (2, EntryKind::Application, alice.sender()));
    match bob.receive(&world, &entry.payload) {
        Received::Application { content, .. } => assert_eq!(&*content, b"hello bob"),
        other => panic!("{other:?}"),
    }
    // The server's word for it.
    let Request::Submit(submit) = request else { panic!() };
    let hash = Digest::of(&[&submit.payload]);
    let statement = proof_statement(CHANNEL, 2, sent.chain, submit.message, hash, sent.time);
    let server = world.server.id();
    backend().ed25519_verify(&server.0, &statement, &sent.proof).unwrap();
    let all = alice.read(&mut world, CHANNEL, 0);
    let chain = all.iter().fold(chain::start(CHANNEL), chain::next);
    assert_eq!(chain, sent.chain);

    let reply = bob.say(&mut world, CHANNEL, "hello alice");
    assert_eq!(reply.seq, 3);
    let entry = alice.read(&mut world, CHANNEL, 2).remove(0);
    assert!(matches!(alice.receive(&world, &entry.payload), Received::Application { .. }));
}

/// A key package ends by the server's clock at the moment of the commit, whatever the committer's said.
#[test]
fn a_commit_that_adds_by_an_expired_key_package_is_refused() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    bob.upload(&mut world, 1);
    alice.found(&mut world, CHANNEL);
    let adds = alice.claim(&mut world, bob.id()).into_iter().map(Vec::from).collect();
    let request = alice.commit_request(&world, CHANNEL, &Plan { adds, ..Plan::default() });
    let end = START.plus(limits::KEY_PACKAGE_TIME);
    for wall in [end, end.plus(limits::ENTRY_TIME)] {
        world.now.wall = wall;
        assert_eq!(world.fails(alice.link, request.clone()), ErrorCode::KeyPackageInvalid);
    }
    let audited = world.audit.last().unwrap();
    assert_eq!(audited.error, Some(ErrorCode::KeyPackageInvalid));
    // Nothing has changed: in its last moment the same commit is accepted.
    world.now.wall = UnixMillis(end.0 - 1);
    assert_eq!(accepted(world.call(alice.link, request)).seq, 1);
    alice.merge(&world);
    bob.join(&mut world);
}

#[test]
fn of_two_committers_one_wins_and_the_other_hears_the_epoch() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let one = alice.commit_request(&world, CHANNEL, &Plan::default());
    let other = bob.commit_request(&world, CHANNEL, &Plan::default());
    let (first, second) = (world.ask(alice.link, one), world.ask(bob.link, other));
    world.settle();
    let won = accepted(world.answer(alice.link, first).unwrap());
    let lost = world.answer(bob.link, second).unwrap().unwrap_err();
    assert_eq!((lost.code, lost.epoch), (ErrorCode::EpochConflict, 2));
    alice.merge(&world);
    bob.discard();
    let entry = bob.read(&mut world, CHANNEL, won.seq - 1).remove(0);
    assert!(matches!(bob.receive(&world, &entry.payload), Received::Commit(_)));
    let again = bob.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(bob.link, again));
    bob.merge(&world);
    let info = Request::ChannelInfo { channel: CHANNEL };
    match world.call(alice.link, info).unwrap() {
        Reply::Channel(info) => assert_eq!((info.epoch, info.members, info.head), (3, 2, 3)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_resend_gets_the_first_answer_whatever_has_happened_since() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    let first = world.call(alice.link, commit.clone());
    alice.merge(&world);
    let entry = bob.read(&mut world, CHANNEL, 1).remove(0);
    bob.receive(&world, &entry.payload);
    let message = bob.message(&world, CHANNEL, "one");
    let said = world.call(bob.link, message.clone());
    // Three more epochs: the message would be stale now.
    for _ in 0..3 {
        let next = alice.commit_request(&world, CHANNEL, &Plan::default());
        accepted(world.call(alice.link, next));
        alice.merge(&world);
    }
    assert_eq!(world.call(alice.link, commit.clone()), first);
    assert_eq!(world.call(bob.link, message.clone()), said);
    // From another connection, too; and while the first is still under way.
    alice.reconnect(&mut world);
    assert_eq!(world.call(alice.link, commit.clone()), first);
    let next = alice.commit_request(&world, CHANNEL, &Plan::default());
    let (one, two) = (world.ask(alice.link, next.clone()), world.ask(alice.link, next));
    world.settle();
    let one = world.answer(alice.link, one).unwrap();
    assert!(one.is_ok());
    assert_eq!(world.answer(alice.link, two).unwrap(), one);
    // The same name for something else is refused.
    let (Request::Commit(bundle), Request::Submit(submit)) = (commit, message) else { panic!() };
    let other = CommitBundle { group_info: submit.payload.clone(), ..bundle };
    assert_eq!(world.fails(alice.link, Request::Commit(other)), ErrorCode::MessageIdReused);
}

#[test]
fn a_commit_that_lies_is_refused_and_the_group_goes_on() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let Request::Commit(good) = alice.commit_request(&world, CHANNEL, &Plan::default()) else {
        panic!()
    };
    let Part::Inline(commit) = &good.commit else { panic!() };
    // A stranger's GroupInfo, another's commit, a bit flipped in the signature.
    let mut bent = commit.to_vec();
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    let lies = [
        CommitBundle { group_info: commit.clone(), ..good.clone() },
        CommitBundle { commit: Part::Inline(bent.into()), ..good.clone() },
        CommitBundle { welcome: Some(good.commit.clone()), ..good.clone() },
    ];
    for lie in lies {
        let code = world.fails(alice.link, Request::Commit(lie));
        assert!(matches!(code, ErrorCode::CommitInvalid | ErrorCode::BadRequest), "{code:?}");
    }
    let stolen = world.fails(bob.link, Request::Commit(good.clone()));
    assert_eq!(stolen, ErrorCode::CommitInvalid);
    accepted(world.call(alice.link, Request::Commit(good)));
    alice.merge(&world);
    let entry = bob.read(&mut world, CHANNEL, 1).remove(0);
    assert!(matches!(bob.receive(&world, &entry.payload), Received::Commit(_)));
}

#[test]
fn a_removed_device_reads_its_removal_and_no_more() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let subscribe = Request::Subscribe { channel: CHANNEL, after: 1 };
    assert_eq!(world.call(bob.link, subscribe).unwrap(), Reply::Subscribed { head: 1 });
    alice.say(&mut world, CHANNEL, "still here");
    let plan = Plan { removes: vec![bob.sender()], ..Plan::default() };
    let removal = alice.commit_request(&world, CHANNEL, &plan);
    let removal = accepted(world.call(alice.link, removal));
    alice.merge(&world);
    alice.say(&mut world, CHANNEL, "he is gone");
    let seqs: Vec<u64> = pushed(&mut world, bob.link).iter().map(|entry| entry.0).collect();
    assert_eq!(seqs, [2, 3]);
    assert_eq!(removal.seq, 3);
    // Not by asking again from there, either.
    let again = Request::Subscribe { channel: CHANNEL, after: 3 };
    world.call(bob.link, again).unwrap();
    alice.say(&mut world, CHANNEL, "he is gone for good");
    assert_eq!(pushed(&mut world, bob.link), []);
    let read: Vec<u64> = bob.read(&mut world, CHANNEL, 0).iter().map(|entry| entry.seq).collect();
    assert_eq!(read, [2, 3]);
    let message = bob.message(&world, CHANNEL, "let me in");
    assert_eq!(world.fails(bob.link, message), ErrorCode::NotMember);
    let commit = bob.commit_request(&world, CHANNEL, &Plan::default());
    assert_eq!(world.fails(bob.link, commit), ErrorCode::NotMember);
}

/// Seq and kind of pushed entries, in order, contiguous.
pub(super) fn pushed(world: &mut World, link: crate::io::LinkId) -> Vec<(u64, EntryKind)> {
    let mut seen = Vec::new();
    for push in world.pushes(link) {
        match push {
            Push::Entries(Entries { entries, .. }) => {
                seen.extend(entries.iter().map(|entry| (entry.seq, entry.kind)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{seen:?}");
    seen
}

#[test]
fn pushes_follow_the_log_without_reading_it_again() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    let subscribe = Request::Subscribe { channel: CHANNEL, after: 0 };
    world.call(bob.link, subscribe).unwrap();
    let before = world.executed.len();
    for _ in 0..20 {
        alice.say(&mut world, CHANNEL, "hello");
    }
    let reads = world.executed.len() - before - 20;
    assert_eq!(reads, 1, "one to see that bob may read on after the commit that added him");
    let seen = pushed(&mut world, bob.link);
    assert_eq!(seen.iter().map(|entry| entry.0).collect::<Vec<_>>(), (2..22).collect::<Vec<_>>());
}

#[test]
fn a_channel_is_of_the_kind_that_its_id_says() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let (own, random) = (alice.sender(), [9; 16]);
    let nobody = crate::id::AccountId([7; 32]);
    let ids = [
        ChannelId::group(random),
        ChannelId::direct(own.account, nobody),
        ChannelId::inbox(own),
        ChannelId([0xFF; 16]),
    ];
    let kinds = [ChannelKind::Group, ChannelKind::Direct, ChannelKind::Inbox];
    for (at, id) in ids.into_iter().enumerate() {
        for (of, kind) in kinds.into_iter().enumerate() {
            let request = match (at, of) {
                (1, 1) => alice.found_direct_request(&world, nobody),
                _ => alice.found_request(&world, id, kind),
            };
            let expected = match (at, of) {
                (0, 0) => None,
                // Nobody is there: all else about it is in order.
                (1, 1) => Some(ErrorCode::AccountUnknown),
                _ => Some(ErrorCode::BadRequest),
            };
            let request = between(request, (kind == ChannelKind::Direct).then_some(nobody));
            assert_eq!(
                world.call(alice.link, request).err().map(|f| f.code),
                expected,
                "{at} {of}"
            );
        }
    }
}

/// A founding, with that account.
pub(super) fn between(request: Request, other: Option<crate::id::AccountId>) -> Request {
    let Request::ChannelCreate { channel, kind, generation, group_info, tree, .. } = request else {
        panic!("{request:?}")
    };
    Request::ChannelCreate { channel, kind, generation, group_info, tree, with: other }
}

#[test]
fn only_the_two_found_their_direct_channel() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let bob = Device::new(&mut world, "bob");
    let mut mallory = Device::new(&mut world, "mallory");
    let theirs = ChannelId::direct(alice.id(), bob.id());
    for with in [None, Some(alice.id()), Some(bob.id()), Some(mallory.id())] {
        let taken = mallory.found_request(&world, theirs, ChannelKind::Direct);
        assert_eq!(world.fails(mallory.link, between(taken, with)), ErrorCode::BadRequest);
    }
    let alone = ChannelId::direct(alice.id(), alice.id());
    let request = alice.found_request(&world, alone, ChannelKind::Direct);
    let request = between(request, Some(alice.id()));
    assert_eq!(world.fails(alice.link, request), ErrorCode::BadRequest);
    // A group that is with somebody is none, either.
    let group = alice.found_request(&world, CHANNEL, ChannelKind::Group);
    assert_eq!(world.fails(alice.link, between(group, Some(bob.id()))), ErrorCode::BadRequest);
    let due = alice.found_direct_request(&world, bob.id());
    assert_eq!(world.call(alice.link, due.clone()).unwrap(), Reply::Done);
    assert_eq!(world.call(alice.link, due).unwrap(), Reply::Done, "sent again");
}

/// Neither of the two is to depend on the other.
#[test]
fn the_admins_of_a_direct_channel_are_its_two_accounts() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let bob = Device::new(&mut world, "bob");
    let carol = Device::new(&mut world, "carol");
    let channel = ChannelId::direct(alice.id(), bob.id());
    let (a, b, c) = (alice.id(), bob.id(), carol.id());
    let cases: [(&[_], bool); 6] = [
        (&[a], false),
        (&[a, b], true),
        (&[a], true),
        (&[a, c], false),
        (&[a, b, c], false),
        (&[], true),
    ];
    for (admins, open) in cases {
        let mut admins = admins.to_vec();
        admins.sort_unstable();
        let data = GroupData { version: 1, admins, open, metadata: Digest([0; 32]) };
        let request = alice.founding(&world, channel, ChannelKind::Direct, data);
        assert_eq!(world.fails(alice.link, between(request, Some(b))), ErrorCode::NotAllowed);
    }
    let due = alice.found_direct_request(&world, b);
    assert_eq!(world.call(alice.link, due).unwrap(), Reply::Done);
}

#[test]
fn a_direct_channel_takes_its_two_accounts_only() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    let mut carol = Device::new(&mut world, "carol");
    bob.upload(&mut world, 3);
    carol.upload(&mut world, 3);
    let channel = ChannelId::direct(alice.id(), bob.id());
    let request = alice.found_direct_request(&world, bob.id());
    assert_eq!(world.call(alice.link, request).unwrap(), Reply::Done);
    let adds = alice.claim(&mut world, carol.id()).iter().map(|p| p.to_vec()).collect();
    let wrong = alice.commit_request(&world, channel, &Plan { adds, ..Plan::default() });
    assert_eq!(world.fails(alice.link, wrong), ErrorCode::NotAllowed);
    alice.discard();
    alice.invite(&mut world, channel, bob.id());
    bob.join(&mut world);
    bob.say(&mut world, channel, "between us");
    // Neither puts the other out, nor takes a third in; each may leave.
    let removes = vec![alice.sender()];
    let out = bob.commit_request(&world, channel, &Plan { removes, ..Plan::default() });
    assert_eq!(world.fails(bob.link, out), ErrorCode::NotAllowed);
    bob.discard();
    let adds = bob.claim(&mut world, carol.id()).iter().map(|p| p.to_vec()).collect();
    let third = bob.commit_request(&world, channel, &Plan { adds, ..Plan::default() });
    assert_eq!(world.fails(bob.link, third), ErrorCode::NotAllowed);
    bob.discard();
    let leave = bob.leave_request(&world, channel);
    accepted(world.call(bob.link, leave));
}

#[test]
fn who_leaves_by_proposal_goes_with_the_next_commit() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let proposal = bob.leave_request(&world, CHANNEL);
    let seq = accepted(world.call(bob.link, proposal.clone())).seq;
    assert_eq!(accepted(world.call(bob.link, proposal)).seq, seq);
    // A commit that leaves it out is refused.
    let ignorant = alice.commit_request(&world, CHANNEL, &Plan::default());
    assert_eq!(world.fails(alice.link, ignorant), ErrorCode::ProposalLeftOut);
    alice.discard();
    let entry = alice.read(&mut world, CHANNEL, seq - 1).remove(0);
    alice.receive(&world, &entry.payload);
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, commit));
    alice.merge(&world);
    assert_eq!(
        world.fails(bob.link, Request::ChannelInfo { channel: CHANNEL }),
        ErrorCode::NotMember
    );
}

#[test]
fn group_info_comes_with_its_tree() {
    let mut world = World::new();
    let (alice, bob) = pair(&mut world);
    let request = Request::GroupInfoFetch { channel: CHANNEL };
    let reply = world.call(bob.link, request).unwrap();
    let Reply::GroupInfo { generation, epoch, tree, tree_len, seq, .. } = reply else { panic!() };
    assert_eq!((generation, epoch, seq), (1, 1, 1));
    let request = Request::BlobGet { hash: tree, offset: 0 };
    match world.call(alice.link, request).unwrap() {
        Reply::Blob { total, chunk } => {
            assert_eq!((total, Digest::of(&[&chunk])), (tree_len, tree));
        }
        other => panic!("{other:?}"),
    }
    let carol = Device::new(&mut world, "carol");
    let request = Request::GroupInfoFetch { channel: CHANNEL };
    assert_eq!(world.fails(carol.link, request), ErrorCode::NotMember);
    let request = Request::GroupInfoFetch { channel: ChannelId([8; 16]) };
    assert_eq!(world.fails(carol.link, request), ErrorCode::ChannelUnknown);
}

#[test]
fn submissions_that_are_not_what_they_say_are_refused() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    let Request::Submit(submit) = alice.message(&world, CHANNEL, "x") else { panic!() };
    let wrong = [
        Submit { epoch: 2, ..submit.clone() },
        Submit { generation: 2, ..submit.clone() },
        Submit { channel: ChannelId([4; 16]), ..submit.clone() },
        Submit { kind: crate::wire::message::SubmitKind::Proposal, ..submit.clone() },
        Submit { payload: vec![0; 40].into(), ..submit.clone() },
    ];
    for submit in wrong {
        assert_eq!(world.fails(alice.link, Request::Submit(submit)), ErrorCode::BadRequest);
    }
    accepted(world.call(alice.link, Request::Submit(submit)));
    let carol = Device::new(&mut world, "carol");
    let fetch = Request::Fetch { channel: CHANNEL, after: 0, limit: 1, wait_ms: 0 };
    assert_eq!(world.fails(carol.link, fetch), ErrorCode::NotMember);
    let beyond = Request::Fetch { channel: CHANNEL, after: 99, limit: 1, wait_ms: 0 };
    assert_eq!(world.fails(bob.link, beyond), ErrorCode::CursorInvalid);
    let ack = Request::Ack { channel: CHANNEL, seq: 99 };
    assert_eq!(world.fails(bob.link, ack), ErrorCode::CursorInvalid);
    let ack = Request::Ack { channel: CHANNEL, seq: 2 };
    assert_eq!(world.call(bob.link, ack).unwrap(), Reply::Done);
}

#[test]
fn stale_and_future_epochs_are_told_with_the_present_one() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let late: Vec<_> = (0..2).map(|_| bob.message(&world, CHANNEL, "late")).collect();
    for _ in 0..2 {
        let next = alice.commit_request(&world, CHANNEL, &Plan::default());
        accepted(world.call(alice.link, next));
        alice.merge(&world);
    }
    accepted(world.call(bob.link, late[0].clone()));
    let next = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, next));
    let failure = world.call(bob.link, late[1].clone()).unwrap_err();
    assert_eq!((failure.code, failure.epoch), (ErrorCode::StaleEpoch, 4));
    alice.merge(&world);
    let head = alice.read(&mut world, CHANNEL, 0).len();
    assert_eq!(head, 5);
}

#[test]
fn channels_are_listed_and_creation_is_checked() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let again = bob.found_request(&world, CHANNEL, ChannelKind::Group);
    assert_eq!(world.fails(bob.link, again), ErrorCode::ChannelExists);
    let inbox = ChannelId::inbox(alice.sender());
    let taken = alice.found_request(&world, inbox, ChannelKind::Group);
    assert_eq!(world.fails(alice.link, taken), ErrorCode::BadRequest);
    let others = bob.found_request(&world, inbox, ChannelKind::Group);
    assert_eq!(world.fails(bob.link, others), ErrorCode::BadRequest);
    // Founded by another than whose session it is.
    let foreign = alice.found_request(&world, ChannelId([9; 16]), ChannelKind::Group);
    let code = world.fails(bob.link, foreign);
    assert!(matches!(code, ErrorCode::CommitInvalid | ErrorCode::RecordInvalid), "{code:?}");
    match world.call(bob.link, Request::ChannelList { after: None }).unwrap() {
        Reply::Channels { channels, more } => {
            let mut expected = [CHANNEL, ChannelId::inbox(bob.sender())];
            expected.sort();
            assert_eq!(channels.iter().map(|info| info.channel).collect::<Vec<_>>(), expected);
            assert!(!more);
        }
        other => panic!("{other:?}"),
    }
}
