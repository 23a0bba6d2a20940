//! What the server must not accept, because honest members would not.

use openmls::prelude::*;

use super::world::*;
use crate::crypto::identity::DeviceRecord;
use crate::crypto::portable;
use crate::id::GroupId;
use crate::limits;
use crate::mls::data::GroupData;
use crate::mls::public::PublicState;
use crate::mls::suite::Suite;
use crate::mls::{MlsError, rules};
use crate::server::op::Member;

fn world() -> World {
    World::new(Suite::Classical)
}

/// Whoever the server says has sent something, the leaf that signed it decides (RUSTSEC-2025-0041, CVE-2022-39250).
#[test]
fn regression_26_the_sender_is_bound_by_its_leaf() {
    let World { mut server, mut alice, bob, bob2, stranger, mut carol, .. } = world();
    let sent = alice.update();
    server.refuses(&bob, &sent, "another device");
    server.refuses(&stranger, &sent, "no longer a member");
    let leaving = carol.leave();
    server.refuses_proposal(&bob, &leaving, "another device");
    server.refuses_proposal(&stranger, &leaving, "no longer a member");

    // Another device of the same account is another device.
    let mut bob = bob;
    let by_bob = bob.update();
    server.refuses(&bob2, &by_bob, "another device");

    // The sender's leaf is signed: moving it moves the signature's key.
    let mut moved = sent.clone();
    let at = 4 + 1 + 32 + 8 + 1;
    assert_eq!(moved.commit[at..at + 4], [0; 4]);
    moved.commit[at + 3] = 1;
    server.refuses(&bob, &moved, "");
    server.commit(alice.sender(), &sent).unwrap();
}

#[test]
fn a_commit_of_one_who_is_out() {
    let World { mut server, mut alice, mut carol, mut bob, .. } = world();
    let late = carol.update();
    let sent = alice.remove(&[alice.leaf_of(&carol)]);
    server.commit(alice.sender(), &sent).unwrap();
    assert_eq!(server.commit(carol.sender(), &late), Err(MlsError::PastEpoch));
    alice.merge();
    bob.receive(&sent.commit);
    // Her own branch of the group, at the present epoch and at a later one.
    carol.merge();
    let forked = carol.update();
    assert_eq!(server.commit(carol.sender(), &forked), Err(MlsError::NotMember));
    carol.merge();
    let ahead = carol.update();
    assert_eq!(server.commit(carol.sender(), &ahead), Err(MlsError::FutureEpoch));
    server.refuses(&bob, &forked, "another device");
}

#[test]
fn a_commit_of_another_branch_does_not_verify() {
    let World { mut server, mut alice, mut bob, .. } = world();
    let (one, other) = (alice.update(), bob.update());
    server.commit(alice.sender(), &one).unwrap();
    bob.merge();
    let forked = bob.update();
    server.refuses(&bob, &forked, "");
    assert_eq!(server.commit(bob.sender(), &other), Err(MlsError::PastEpoch));
}

#[test]
fn a_message_of_another_group() {
    let World { mut server, mut alice, .. } = world();
    let mut elsewhere = Device::new(1, 1);
    let extensions = rules::context_extensions(&data(&[&alice])).unwrap();
    elsewhere.found(Suite::Classical.ciphersuite(), GroupId([8; 32]), extensions);
    let sent = elsewhere.update();
    assert_eq!(server.commit(alice.sender(), &sent), Err(MlsError::WrongGroup));
    assert_eq!(server.propose(alice.sender(), &sent.commit), Err(MlsError::WrongGroup));
    let sent = alice.update();
    server.refuses_proposal(&alice, &sent.commit, "kind");
    alice.discard();
    let proposal = alice.propose(Propose::Remove(alice.leaf_of(&alice).u32() + 1));
    let as_commit = Sent { commit: proposal, ..sent };
    server.refuses(&alice, &as_commit, "kind");
}

#[test]
fn a_device_that_its_account_did_not_sign() {
    let World { mut server, mut alice, .. } = world();
    let (dave, key) = (account(4), key(4, 1, 1));
    let honest = record(&dave, 1, 1, &key);
    // Signed by a server's own key in the account's name; for another account's key; altered after signing.
    let mut invented = record(&account(66), 1, 1, &key);
    invented.account = dave.account();
    let mut altered = honest.clone();
    altered.sequence = 2;
    for bad in [invented, altered] {
        let mut device = Device::with(key.clone(), bad);
        let sent = alice.add(&[device.key_package(Suite::Classical)]);
        assert_eq!(server.commit(alice.sender(), &sent), Err(MlsError::Record));
        alice.discard();
        let package = device.key_package(Suite::Classical);
        let proposal = alice.propose(Propose::Add(package));
        assert_eq!(server.propose(alice.sender(), &proposal), Err(MlsError::Record));
        alice.forget_proposals();
    }
    // A good record over another key than the leaf's: somebody else's record worn.
    let mut thief = Device::with(super::world::key(5, 1, 1), honest.clone());
    let sent = alice.add(&[thief.key_package(Suite::Classical)]);
    assert_eq!(server.commit(alice.sender(), &sent), Err(MlsError::Record));
    alice.discard();
    let mut device = Device::with(key, honest);
    let sent = alice.add(&[device.key_package(Suite::Classical)]);
    server.commit(alice.sender(), &sent).unwrap();
}

#[test]
fn a_leaf_of_another_device_than_before() {
    let World { mut server, mut bob, bob2, .. } = world();
    let old = |record: &DeviceRecord| Device::with(key(2, 1, 7), record.clone());
    let new_key = key(2, 1, 7);
    // The device of the same account, an account of another, a record no newer than the one before.
    for record in [
        record(&account(2), 3, 2, &new_key),
        record(&account(4), 1, 2, &new_key),
        record(&account(2), 1, 1, &new_key),
        record(&account(2), 1, 0, &new_key),
    ] {
        let sent = bob.rotate(&old(&record));
        assert_eq!(server.commit(bob.sender(), &sent), Err(MlsError::Record));
        bob.discard();
    }
    // Another device's key, signed again for this one: two leaves with one key.
    let twin = Device::with(key(2, 2, 1), record(&account(2), 1, 2, &key(2, 2, 1)));
    assert_eq!(twin.record.device_key, bob2.record.device_key);
    let sent = bob.rotate(&twin);
    server.refuses(&bob, &sent, "");
    bob.discard();
    let sent = bob.rotate(&old(&record(&account(2), 1, 2, &new_key)));
    server.commit(bob.sender(), &sent).unwrap();
}

#[test]
fn a_device_with_two_leaves() {
    let World { mut server, mut alice, bob, .. } = world();
    // OpenMLS sees two keys; we see one device.
    let mut again = Device::numbered(2, 1, 2);
    assert_eq!(again.sender(), bob.sender());
    let package = again.key_package(Suite::Classical);
    let sent = alice.add(core::slice::from_ref(&package));
    server.refuses(&alice, &sent, "two leaves");
    alice.discard();
    let proposal = alice.propose(Propose::Add(package));
    server.refuses_proposal(&alice, &proposal, "changes nothing");
    alice.forget_proposals();
    let (mut one, mut other) = (Device::new(4, 1), Device::numbered(4, 1, 2));
    let packages = [one.key_package(Suite::Classical), other.key_package(Suite::Classical)];
    let sent = alice.add(&packages);
    server.refuses(&alice, &sent, "two leaves");
    alice.discard();
    let [package, other] = packages;
    let proposal = alice.propose(Propose::Add(package));
    server.propose(alice.sender(), &proposal).unwrap();
    let proposal = alice.propose(Propose::Add(other));
    server.refuses_proposal(&alice, &proposal, "queued already");
}

#[test]
fn a_key_package_without_an_end_or_with_too_little() {
    let World { mut server, mut alice, .. } = world();
    let forever = || Lifetime::init(0, u64::MAX);
    for expiry in [None, Some(vec![]), Some(vec![0; 7]), Some(vec![0; 9])] {
        let package = Device::new(4, 1).key_package_as(
            Suite::Classical,
            expiry,
            rules::capabilities(),
            forever(),
        );
        let sent = alice.add(&[package]);
        assert_eq!(server.commit(alice.sender(), &sent), Err(MlsError::Expired));
        alice.discard();
    }
    let end = Some(EXPIRES.0.to_be_bytes().to_vec());
    let fewer = Capabilities::builder()
        .ciphersuites(vec![Suite::Classical.ciphersuite()])
        .extensions(rules::capabilities().extensions().to_vec())
        .proposals(rules::capabilities().proposals().to_vec())
        .build();
    let package = Device::new(4, 1).key_package_as(Suite::Classical, end.clone(), fewer, forever());
    let sent = alice.add(&[package]);
    server.refuses(&alice, &sent, "capabilities");
    alice.discard();
    // Valid by the clock of whoever looks now, but not for ever: no clock may decide.
    let year = Lifetime::init(0, 4_000_000_000);
    let package =
        Device::new(4, 1).key_package_as(Suite::Classical, end, rules::capabilities(), year);
    let sent = alice.add(&[package]);
    server.refuses(&alice, &sent, "lifetime");
}

#[test]
fn the_earliest_end_of_the_key_packages_is_told() {
    let World { mut server, mut alice, .. } = world();
    let forever = Lifetime::init(0, u64::MAX);
    let end = Some(5_u64.to_be_bytes().to_vec());
    let early =
        Device::new(4, 1).key_package_as(Suite::Classical, end, rules::capabilities(), forever);
    let sent = alice.add(&[Device::new(5, 1).key_package(Suite::Classical), early]);
    let checked = server.commit(alice.sender(), &sent).unwrap();
    assert_eq!(checked.expires.unwrap().0, 5);
}

/// Two commits race; only the winner's GroupInfo is ever the group's (Wire #4436).
#[test]
fn regression_17_a_commit_race_keeps_the_winners_group_info() {
    let World { mut server, mut alice, mut bob, mut carol, .. } = world();
    let (one, other) = (alice.update(), bob.update());
    let mixed = Sent { group_info: other.group_info.clone(), ..one.clone() };
    server.refuses(&alice, &mixed, "another state");
    server.commit(bob.sender(), &other).unwrap();
    assert_eq!(server.commit(alice.sender(), &one), Err(MlsError::PastEpoch));
    let epoch = server.state().epoch();
    let MlsMessageBodyIn::GroupInfo(info) =
        tls_codec::Deserialize::tls_deserialize_exact(&other.group_info)
            .map(MlsMessageIn::extract)
            .unwrap()
    else {
        panic!("no group info");
    };
    assert_eq!((epoch, info.epoch().as_u64()), (2, 2));
    assert_eq!(info.group_context(), server.state().group.group_context());
    carol.receive(&other.commit);
}

#[test]
fn a_queued_removal_left_out() {
    let World { mut server, mut alice, mut bob, mut carol, .. } = world();
    let leaving = carol.leave();
    server.propose(carol.sender(), &leaving).unwrap();
    server.refuses_proposal(&carol, &leaving, "queued already");
    let sent = alice.update();
    server.refuses(&alice, &sent, "left out");
    alice.discard();
    // Her leave may come true by a removal as well.
    let removal = alice.remove(&[alice.leaf_of(&carol)]);
    let mut early = Stored { records: server.records.clone() };
    assert_eq!(early.commit(alice.sender(), &removal).unwrap().removes, vec![carol.sender()]);
    alice.discard();
    // She cannot remove herself, but may commit for others.
    let by_carol = carol.commit(|builder| builder.consume_proposal_store(false));
    let mut other = Stored { records: server.records.clone() };
    other.commit(carol.sender(), &by_carol).unwrap();
    for device in [&mut alice, &mut bob] {
        device.receive(&leaving);
    }
    let sent = bob.update();
    let checked = server.commit(bob.sender(), &sent).unwrap();
    assert_eq!(checked.removes, vec![carol.sender()]);
    assert!(server.state().queued().unwrap().is_empty());
}

#[test]
fn one_who_is_to_be_removed_commits_nothing() {
    let World { mut server, mut alice, mut carol, .. } = world();
    let removal = alice.propose(Propose::Remove(alice.leaf_of(&carol).u32()));
    server.propose(alice.sender(), &removal).unwrap();
    let sent = carol.update();
    server.refuses(&carol, &sent, "left out");
    let sent = alice.update();
    assert_eq!(server.commit(alice.sender(), &sent).unwrap().removes, vec![carol.sender()]);
}

#[test]
fn what_a_plain_member_may_not() {
    let World { mut server, alice, mut bob, bob2, carol, .. } = world();
    let role = "role does not allow";
    let sent = bob.remove(&[bob.leaf_of(&carol)]);
    server.refuses(&bob, &sent, role);
    bob.discard();
    let sent = bob.remove(&[bob.leaf_of(&alice)]);
    server.refuses(&bob, &sent, role);
    bob.discard();
    let sent = bob.add(&[Device::new(4, 1).key_package(Suite::Classical)]);
    server.refuses(&bob, &sent, role);
    bob.discard();
    let mut grab = data(&[&alice, &bob]);
    grab.version = 2;
    let sent = bob.change(&grab);
    server.refuses(&bob, &sent, "no admin");
    bob.discard();
    let proposal = bob.propose(Propose::Remove(bob.leaf_of(&carol).u32()));
    server.refuses_proposal(&bob, &proposal, role);
    bob.forget_proposals();
    let proposal = bob.propose(Propose::Add(Device::new(4, 1).key_package(Suite::Classical)));
    server.refuses_proposal(&bob, &proposal, role);
    bob.forget_proposals();
    // Devices of the own account are its own business.
    let third = Device::new(2, 3).key_package(Suite::Classical);
    let leaf = bob.leaf_of(&bob2);
    let sent = bob.commit(|builder| builder.propose_adds([third]).propose_removals([leaf]));
    let checked = server.commit(bob.sender(), &sent).unwrap();
    assert_eq!(checked.adds, [Device::new(2, 3).member()]);
    assert_eq!(checked.removes, [bob2.sender()]);
}

#[test]
fn an_open_group_lets_everyone_invite_but_not_rule() {
    let World { mut server, mut alice, mut bob, .. } = world();
    let open = GroupData { version: 2, open: true, ..data(&[&alice]) };
    let sent = alice.change(&open);
    server.commit(alice.sender(), &sent).unwrap();
    alice.merge();
    bob.receive(&sent.commit);
    let sent = bob.change(&GroupData { version: 3, ..data(&[&bob]) });
    server.refuses(&bob, &sent, "no admin");
    bob.discard();
    let sent = bob.add(&[Device::new(4, 1).key_package(Suite::Classical)]);
    server.commit(bob.sender(), &sent).unwrap();
}

#[test]
fn group_data_that_is_not_sound() {
    let World { mut server, mut alice, .. } = world();
    // The version has to rise.
    let sent = alice.change(&data(&[&alice]));
    server.refuses(&alice, &sent, "without raising");
    alice.discard();
    let wrong = "not as they have to be";
    let required = || Extension::RequiredCapabilities(rules::required_capabilities());
    let content =
        |bytes: Vec<u8>| Extension::Unknown(GroupData::EXTENSION, UnknownExtension(bytes));
    let good = || content(GroupData { version: 2, ..data(&[&alice_of()]) }.encode());
    let weaker = Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(GroupData::EXTENSION)],
        &[],
        &[],
    ));
    let cases = [
        (vec![required()], wrong),
        (vec![weaker, good()], wrong),
        (vec![required(), content(vec![])], "no sound group data"),
        (vec![required(), content(vec![1; 40])], "no sound group data"),
        (vec![required(), good(), Extension::ExternalSenders(vec![])], wrong),
    ];
    for (extensions, why) in cases {
        let sent = alice.extend(Extensions::from_vec(extensions).unwrap());
        server.refuses(&alice, &sent, why);
        alice.discard();
    }
    let sent = alice.extend(Extensions::from_vec(vec![required(), good()]).unwrap());
    server.commit(alice.sender(), &sent).unwrap();
}

fn alice_of() -> Device {
    Device::new(1, 1)
}

#[test]
fn proposals_that_are_not_made_on_their_own() {
    let World { mut server, mut alice, mut bob, .. } = world();
    let update = bob.propose(Propose::Update(LeafNodeParameters::default()));
    server.refuses_proposal(&bob, &update, "not made on its own");
    let change = rules::context_extensions(&GroupData { version: 2, ..data(&[&alice]) }).unwrap();
    let change = alice.propose(Propose::GroupContextExtensions(change));
    server.refuses_proposal(&alice, &change, "not made on its own");
    alice.forget_proposals();
    let psk = openmls::schedule::PreSharedKeyId::external(vec![1; 32], vec![2; 32]);
    let psk = alice.propose(Propose::PreSharedKey(psk));
    server.refuses_proposal(&alice, &psk, "not made on its own");
}

#[test]
fn a_group_of_another_suite() {
    let mut alice = Device::new(1, 1);
    let extensions = rules::context_extensions(&data(&[&alice])).unwrap();
    let weaker = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    let (info, tree) = alice.found(weaker, group_id(), extensions);
    let refused = PublicState::create(portable(), group_id(), &alice.member(), &info, &tree);
    assert_eq!(refused.err(), Some(MlsError::Suite));
}

#[test]
fn a_key_package_of_another_suite() {
    let World { mut server, mut alice, .. } = World::new(Suite::Hybrid);
    let package = Device::new(4, 1).key_package(Suite::Classical);
    let provider =
        crate::mls::provider::Provider::new(portable(), &mut alice.entropy, &alice.overlay);
    // Even a member that wants to cannot make such a commit with OpenMLS; as a proposal it goes out.
    let group = alice.group.as_mut().unwrap();
    match group.propose(&provider, &alice.key, Propose::Add(package), ProposalOrRefType::Reference)
    {
        Ok((message, _)) => {
            let message = tls_codec::Serialize::tls_serialize_detached(&message).unwrap();
            server.refuses_proposal(&Device::new(1, 1), &message, "");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_founding_that_does_not_hold() {
    let found = |id: GroupId, by: &mut Device, data: &GroupData| {
        let extensions = rules::context_extensions(data).unwrap();
        by.found(Suite::Hybrid.ciphersuite(), id, extensions)
    };
    let create = |creator: &Member, (info, tree): &(Vec<u8>, Vec<u8>)| {
        PublicState::create(portable(), group_id(), creator, info, tree).map(|state| state.epoch())
    };
    let (mut alice, mut bob) = (Device::new(1, 1), Device::new(2, 1));
    let admins = data(&[&alice]);
    let good = found(group_id(), &mut alice, &admins);
    assert_eq!(create(&alice.member(), &good), Ok(0));
    assert!(create(&bob.member(), &good).is_err());
    let key_of_another = Member { device_key: bob.record.device_key, ..alice.member() };
    assert!(create(&key_of_another, &good).is_err());
    let elsewhere = found(GroupId([8; 32]), &mut Device::new(1, 1), &admins);
    assert_eq!(create(&alice.member(), &elsewhere), Err(MlsError::WrongGroup));
    let powerless = found(group_id(), &mut bob, &admins);
    assert!(create(&bob.member(), &powerless).unwrap_err().to_string().contains("founder"));
    let mixed = (good.0.clone(), powerless.1.clone());
    assert!(create(&alice.member(), &mixed).is_err());

    let mut bare = Device::new(1, 1);
    let none = bare.found(Suite::Hybrid.ciphersuite(), group_id(), Extensions::empty());
    assert!(create(&alice.member(), &none).is_err());
    // A group that already has a history.
    let World { alice, added, server, .. } = World::new(Suite::Hybrid);
    let old = (added.group_info, server.state().tree().unwrap());
    let refused = create(&alice.member(), &old).unwrap_err();
    assert!(refused.to_string().contains("first epoch"));
}

#[test]
fn as_many_proposals_as_an_epoch_takes() {
    let World { mut server, mut alice, .. } = world();
    let package = |number: usize| {
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        Device::new(100 + high, low).key_package(Suite::Classical)
    };
    for number in 0..limits::PROPOSALS {
        let proposal = alice.propose(Propose::Add(package(number)));
        server.propose(alice.sender(), &proposal).unwrap();
    }
    let proposal = alice.propose(Propose::Add(package(limits::PROPOSALS)));
    server.refuses_proposal(&alice, &proposal, "too many proposals");
}
