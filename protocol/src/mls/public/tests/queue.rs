//! What must not wait for a commit, because no commit could include it.

use openmls::prelude::*;

use super::world::*;
use crate::env::UnixMillis;
use crate::limits;
use crate::mls::data::GroupData;
use crate::mls::suite::Suite;
use crate::mls::{MlsError, rules};

fn ending(device: &mut Device, end: UnixMillis) -> KeyPackage {
    let end = Some(end.0.to_be_bytes().to_vec());
    let forever = Lifetime::init(0, u64::MAX);
    device.key_package_as(Suite::Classical, end, rules::capabilities(), forever)
}

/// Proposed to the server, and not kept by alice.
fn propose(
    server: &mut Stored,
    alice: &mut Device,
    package: KeyPackage,
) -> Result<Option<crate::server::op::Member>, MlsError> {
    let proposal = alice.propose(Propose::Add(package));
    let result = server.propose(alice.sender(), &proposal);
    alice.forget_proposals();
    result
}

#[test]
fn a_key_package_ends_soon_enough_and_not_yet() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let last = NOW.plus(limits::KEY_PACKAGE_TIME).plus(limits::CLOCK_SKEW);
    for end in [UnixMillis(0), NOW, UnixMillis(last.0 + 1), UnixMillis(u64::MAX)] {
        let package = ending(&mut Device::new(4, 1), end);
        assert_eq!(propose(&mut server, &mut alice, package), Err(MlsError::Expired), "{end:?}");
    }
    let mut dave = Device::new(4, 1);
    let package = ending(&mut dave, last);
    assert_eq!(propose(&mut server, &mut alice, package), Ok(Some(dave.member())));
    let mut erin = Device::new(5, 1);
    let package = ending(&mut erin, UnixMillis(NOW.0 + 1));
    assert_eq!(propose(&mut server, &mut alice, package), Ok(Some(erin.member())));
}

/// RFC 9420 §12.2: no commit has two leaves with one key.
#[test]
fn no_key_is_there_twice() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let taken = |result: Result<_, MlsError>| {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("a key that is taken"), "{error}");
    };
    // Of other devices, with the draws of one that is there: its leaf's key; of one that is queued: both keys.
    let mut like_bob = Device::new(4, 1);
    like_bob.entropy = Device::new(2, 1).entropy;
    let package = like_bob.key_package(Suite::Classical);
    taken(propose(&mut server, &mut alice, package));
    let mut dave = Device::new(4, 1);
    let package = dave.key_package(Suite::Classical);
    propose(&mut server, &mut alice, package).unwrap();
    let mut like_dave = Device::new(5, 1);
    like_dave.entropy = Device::new(4, 1).entropy;
    let package = like_dave.key_package(Suite::Classical);
    taken(propose(&mut server, &mut alice, package));
    // The device key of one that is there, and of one that is queued.
    for (by, of) in [(2, 2), (4, 4)] {
        let same = key(of, 1, 1);
        let mut twin = Device::with(same.clone(), record(&account(by), 9, 1, &same));
        let package = twin.key_package(Suite::Classical);
        taken(propose(&mut server, &mut alice, package));
    }
    let package = Device::new(5, 1).key_package(Suite::Classical);
    propose(&mut server, &mut alice, package).unwrap();
}

#[test]
fn a_leaf_is_as_ours_are() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let end = || Some(EXPIRES.0.to_be_bytes().to_vec());
    let ours = rules::capabilities();
    let other = Capabilities::builder()
        .versions(vec![ProtocolVersion::Other(7)])
        .ciphersuites(Suite::ALL.map(Suite::ciphersuite).to_vec())
        .extensions(ours.extensions().to_vec())
        .proposals(ours.proposals().to_vec())
        .credentials(ours.credentials().to_vec())
        .build();
    let forever = Lifetime::init(0, u64::MAX);
    let package = Device::new(4, 1).key_package_as(Suite::Classical, end(), other, forever);
    assert_eq!(propose(&mut server, &mut alice, package), Err(MlsError::Capabilities));
}

#[test]
fn a_full_group_queues_nobody() {
    let World { server, mut alice, .. } = World::new(Suite::Classical);
    let fill = |most: usize| {
        let mut state = server.state();
        let any = state.records[&0].clone();
        for leaf in 0.. {
            if state.records.len() == most {
                return state;
            }
            state.records.entry(leaf).or_insert_with(|| any.clone());
        }
        state
    };
    let proposal = alice.propose(Propose::Add(Device::new(4, 1).key_package(Suite::Classical)));
    let sender = alice.sender();
    let error = fill(limits::MEMBERS).propose(sender, &proposal, NOW).unwrap_err();
    assert!(error.to_string().contains("too many members"), "{error}");
    let mut state = fill(limits::MEMBERS - 1);
    state.propose(sender, &proposal, NOW).unwrap();
    // Those who are queued are counted in.
    alice.forget_proposals();
    let proposal = alice.propose(Propose::Add(Device::new(5, 1).key_package(Suite::Classical)));
    let error = state.propose(sender, &proposal, NOW).unwrap_err();
    assert!(error.to_string().contains("too many members"), "{error}");
}

/// In an open group there may be no admin; but somebody who can commit what is queued there has to be.
#[test]
fn not_everybody_is_queued_to_be_removed() {
    let World { mut server, mut alice, mut bob, bob2, carol, .. } = World::new(Suite::Classical);
    let open = GroupData { version: 2, open: true, ..data(&[&alice]) };
    let sent = alice.change(&open);
    server.commit(alice.sender(), &sent).unwrap();
    alice.merge();
    bob.receive(&sent.commit);
    for device in [&bob, &bob2, &carol] {
        let proposal = alice.propose(Propose::Remove(alice.leaf_of(device).u32()));
        server.propose(alice.sender(), &proposal).unwrap();
        alice.forget_proposals();
    }
    let last = bob.propose(Propose::Remove(bob.leaf_of(&alice).u32()));
    assert_eq!(server.propose(bob.sender(), &last), Err(MlsError::NoAdmin));
    // Who leaves by its own wish still commits the others'.
    let leaving = alice.leave();
    server.propose(alice.sender(), &leaving).unwrap();
}
