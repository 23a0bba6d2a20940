//! Bytes from anywhere.

use openmls::prelude::Propose;

use super::world::*;
use crate::crypto::portable;
use crate::id::GroupId;
use crate::mls::data::GroupData;
use crate::mls::provider::Provider;
use crate::mls::public::{Peeked, PublicState};
use crate::mls::suite::Suite;
use crate::mls::{MlsError, rules};
use crate::wire::message::EntryKind;

/// Every prefix, every byte with a bit flipped, a byte more.
fn damaged(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = (0..bytes.len()).map(|length| bytes[..length].to_vec()).collect();
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        all.push(flipped);
    }
    all.push([bytes, &[0]].concat());
    all
}

/// Truncation at every byte and trailing bytes (openmls GHSA-rrmv-c79f-cf5r, #2134).
#[test]
fn regression_12_damaged_bundles_are_refused_without_panic() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let sent = alice.add(&[Device::new(4, 1).key_package(Suite::Classical)]);
    // The membership tag, behind its length, is for members to check; everything else is signed or compared.
    let signed = sent.commit.len() - 32;
    for (number, commit) in damaged(&sent.commit).into_iter().enumerate() {
        let of_tag = commit.len() == sent.commit.len() && commit[..signed] == sent.commit[..signed];
        let mut copy = Stored { records: server.records.clone() };
        let result = copy.commit(alice.sender(), &Sent { commit, ..sent.clone() });
        assert_eq!(result.is_ok(), of_tag, "{number}: {result:?}");
    }
    for group_info in damaged(&sent.group_info) {
        let result = server.commit(alice.sender(), &Sent { group_info, ..sent.clone() });
        // The public key in external_pub is signed as well.
        assert!(result.is_err());
    }
    for welcome in damaged(sent.welcome.as_ref().unwrap()) {
        let result =
            server.state().commit(alice.sender(), &sent.commit, Some(&welcome), &sent.group_info);
        // What is sealed for the new member, only the new member can check.
        let same_length = welcome.len() == sent.welcome.as_ref().unwrap().len();
        assert!(result.is_err() || same_length);
    }
    server.commit(alice.sender(), &sent).unwrap();
}

#[test]
fn damaged_proposals_and_foundings_are_refused_without_panic() {
    let World { mut server, mut alice, carol, .. } = World::new(Suite::Classical);
    let proposal = alice.propose(Propose::Remove(alice.leaf_of(&carol).u32()));
    let signed = proposal.len() - 32;
    for bytes in damaged(&proposal) {
        let of_tag = bytes.len() == proposal.len() && bytes[..signed] == proposal[..signed];
        let mut copy = Stored { records: server.records.clone() };
        assert_eq!(copy.propose(alice.sender(), &bytes).is_ok(), of_tag);
    }
    server.propose(alice.sender(), &proposal).unwrap();

    let mut alice = Device::new(1, 1);
    let extensions = rules::context_extensions(&data(&[&alice])).unwrap();
    let (info, tree) = alice.found(Suite::Classical.ciphersuite(), group_id(), extensions);
    let create = |info: &[u8], tree: &[u8]| {
        PublicState::create(portable(), group_id(), &alice.member(), info, tree)
    };
    for info in damaged(&info) {
        assert!(create(&info, &tree).is_err());
    }
    for tree in damaged(&tree) {
        assert!(create(&info, &tree).is_err());
    }
    create(&info, &tree).unwrap();
}

#[test]
fn damaged_records_do_not_load() {
    let World { server, .. } = World::new(Suite::Classical);
    for at in 0..server.records.len() {
        let mut records = server.records.clone();
        records.remove(at);
        assert!(matches!(PublicState::restore(portable(), records), Err(MlsError::Damaged(_))));
        let mut records = server.records.clone();
        let half = records[at].1.len() / 2;
        records[at].1.truncate(half);
        // No panic; a shorter tree or name is damage.
        let _ = PublicState::restore(portable(), records);
    }
}

#[test]
fn one_kind_of_message_in_place_of_another() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let package = Device::new(4, 1).key_package(Suite::Classical);
    let sent = alice.add(core::slice::from_ref(&package));
    alice.discard();
    let provider = Provider::new(portable(), &mut alice.entropy, &alice.overlay);
    let private =
        alice.group.as_mut().unwrap().create_message(&provider, &alice.key, b"hello").unwrap();
    let private = tls_codec::Serialize::tls_serialize_detached(&private).unwrap();
    let package = openmls::prelude::MlsMessageOut::from(package);
    let package = tls_codec::Serialize::tls_serialize_detached(&package).unwrap();
    let welcome = sent.welcome.clone().unwrap();
    let kinds = [&sent.commit, &sent.group_info, &welcome, &private, &package];
    for one in kinds {
        assert!(server.propose(alice.sender(), one).is_err());
        for two in kinds {
            for three in kinds {
                let mixed = Sent {
                    commit: one.clone(),
                    welcome: Some(two.clone()),
                    group_info: three.clone(),
                };
                let right = (one, two, three) == (&sent.commit, &welcome, &sent.group_info);
                let mut copy = Stored { records: server.records.clone() };
                assert_eq!(copy.commit(alice.sender(), &mixed).is_ok(), right);
            }
        }
    }
}

#[test]
fn lengths_that_are_not_there_cost_nothing() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let sent = alice.update();
    // Every position, read as the longest vector there is.
    for at in 0..sent.commit.len() - 4 {
        let mut commit = sent.commit.clone();
        commit[at..at + 4].copy_from_slice(&[0xBF, 0xFF, 0xFF, 0xFF]);
        assert!(PublicState::peek(&commit).is_err() || at > 4);
        let result = server.state().commit(alice.sender(), &commit, None, &sent.group_info);
        assert!(result.is_err() || at + 36 >= sent.commit.len());
    }
    server.commit(alice.sender(), &sent).unwrap();
}

#[test]
fn peek_reads_the_outside() {
    let World { mut alice, mut carol, .. } = World::new(Suite::Classical);
    let sent = alice.add(&[Device::new(4, 1).key_package(Suite::Classical)]);
    alice.discard();
    let provider = Provider::new(portable(), &mut alice.entropy, &alice.overlay);
    let group = alice.group.as_mut().unwrap();
    let private = group.create_message(&provider, &alice.key, b"hello").unwrap();
    let private = tls_codec::Serialize::tls_serialize_detached(&private).unwrap();
    let peeked = |private, kind| Ok(Peeked { private, group: group_id(), epoch: 1, kind });
    assert_eq!(PublicState::peek(&private), peeked(true, EntryKind::Application));
    assert_eq!(PublicState::peek(&sent.commit), peeked(false, EntryKind::Commit));
    assert_eq!(PublicState::peek(&carol.leave()), peeked(false, EntryKind::Proposal));
    for other in [&sent.group_info, &sent.welcome.unwrap(), &vec![]] {
        assert!(PublicState::peek(other).is_err());
    }
    // A PrivateMessage is read to its end; nobody stores what no member could read.
    for length in 0..private.len() {
        assert!(PublicState::peek(&private[..length]).is_err());
    }
    assert!(PublicState::peek(&[private.as_slice(), &[0]].concat()).is_err());
    // A group id of another length, and one in a longer form than needed (RFC 9420 §2.1.2).
    let mut short = private.clone();
    short[4] = 31;
    assert!(PublicState::peek(&short).is_err());
    let long = [&private[..4], &[0x40, 32], &private[5..]].concat();
    assert!(PublicState::peek(&long).is_err());
}

#[test]
fn group_data_at_its_longest_still_founds() {
    let mut alice = Device::new(1, 1);
    let mut admins: Vec<_> = (0..1000_u16)
        .map(|number| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            crate::id::AccountId(id)
        })
        .collect();
    admins.push(alice.account());
    admins.sort_unstable();
    let data = GroupData { admins, ..data(&[&alice]) };
    let extensions = rules::context_extensions(&data).unwrap();
    let (info, tree) = alice.found(Suite::Classical.ciphersuite(), group_id(), extensions);
    let state = PublicState::create(portable(), group_id(), &alice.member(), &info, &tree).unwrap();
    assert_eq!(state.data, data);
    assert_eq!(GroupId::from_slice(state.group.group_id().as_slice()), Some(group_id()));
}

#[test]
fn the_state_can_move_to_another_thread() {
    fn send<T: Send>() {}
    send::<PublicState>();
}
