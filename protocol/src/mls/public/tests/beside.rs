//! What comes beside a commit and is to fit it: its welcome and its GroupInfo.

use openmls::prelude::*;

use super::world::*;
use crate::crypto::portable;
use crate::limits;
use crate::mls::MlsError;
use crate::mls::public::outside::{Reader, write_vector};
use crate::mls::suite::Suite;
use crate::mls::welcome::WelcomeOutside;

fn world() -> World {
    World::new(Suite::Classical)
}

#[test]
fn a_welcome_for_others_or_none() {
    let World { mut server, mut alice, mut bob, .. } = world();
    let sent = alice.add(&[Device::new(4, 1).key_package(Suite::Classical)]);
    server.refuses(&alice, &Sent { welcome: None, ..sent.clone() }, "has to welcome");
    alice.discard();
    let more = [Device::new(4, 1), Device::new(5, 1)].map(|mut d| d.key_package(Suite::Classical));
    let others = alice.add(&more);
    alice.discard();
    let another = alice.add(&[Device::new(6, 1).key_package(Suite::Classical)]);
    for welcome in [&others.welcome, &another.welcome] {
        server.refuses(&alice, &Sent { welcome: welcome.clone(), ..sent.clone() }, "for others");
    }
    let one_short = Sent { welcome: sent.welcome.clone(), ..others };
    server.refuses(&alice, &one_short, "for others");
    let not = Sent { welcome: Some(sent.commit.clone()), ..sent.clone() };
    server.refuses(&alice, &not, "not a Welcome");
    // Of another suite: version, wire format, suite.
    let mut welcome = sent.welcome.clone().unwrap();
    assert_eq!(welcome[4..6], [0, 1]);
    welcome[5] = 3;
    assert_eq!(
        server.commit(alice.sender(), &Sent { welcome: Some(welcome), ..sent.clone() }),
        Err(MlsError::Suite)
    );
    let update = bob.update();
    let extra = Sent { welcome: sent.welcome.clone(), ..update };
    server.refuses(&bob, &extra, "for nobody");
    server.commit(alice.sender(), &sent).unwrap();
}

#[test]
fn a_welcome_is_cut_for_each_and_has_room_for_nothing_else() {
    let World { mut server, mut alice, .. } = world();
    let mut devices = [Device::new(4, 1), Device::new(5, 1)];
    let packages = devices.each_mut().map(|device| device.key_package(Suite::Classical));
    let sent = alice.add(&packages);
    let welcome = sent.welcome.clone().unwrap();
    let mut reader = Reader::new(&welcome[6..]);
    let (secrets, info) = (reader.vector().unwrap(), reader.vector().unwrap());
    let with = |secrets: &[u8], info: &[u8]| {
        let mut welcome = welcome[..6].to_vec();
        write_vector(&mut welcome, secrets);
        write_vector(&mut welcome, info);
        Sent { welcome: Some(welcome), ..sent.clone() }
    };
    // What is beside the secrets is kept once for each of them.
    let stuffed = [info, &vec![0; sent.group_info.len() + 17 - info.len()]].concat();
    server.refuses(&alice, &with(secrets, &stuffed), "more than its GroupInfo");
    server.refuses(&alice, &with(&[secrets, secrets].concat(), info), "not a Welcome");
    let half = &secrets[..secrets.len() / 2];
    server.refuses(&alice, &with(half, info), "for others");
    let mut long = half.to_vec();
    write_vector(&mut long, b"reference");
    write_vector(&mut long, &[1; 32]);
    write_vector(&mut long, &[2; limits::WELCOME_SECRET_BYTES]);
    server.refuses(&alice, &with(&long, info), "not a Welcome");
    for cut in 0..welcome.len() {
        assert!(WelcomeOutside::read(&welcome[..cut]).is_err(), "{cut}");
    }

    let checked = server.commit(alice.sender(), &sent).unwrap();
    assert_eq!(checked.welcomes.len(), 2);
    for (add, welcome) in checked.adds.iter().zip(&checked.welcomes) {
        assert!(welcome.len() <= 6 + 8 + half.len() + info.len());
        let device = devices.iter_mut().find(|device| device.sender() == add.sender).unwrap();
        device.join(welcome, checked.tree.as_ref().unwrap());
    }
}

#[test]
fn a_group_info_that_does_not_match() {
    let World { mut server, mut alice, mut bob, added, .. } = world();
    let mut entropy = crate::env::Entropy::from_seed([1; 32]);
    let crypto = crate::mls::Crypto::new(portable(), &mut entropy);
    let of_bob = bob.update();
    let sent = alice.update();
    let with = |group_info: Vec<u8>| Sent { group_info, ..sent.clone() };
    let encode = |info: MlsMessageOut| tls_codec::Serialize::tls_serialize_detached(&info).unwrap();
    // The present epoch's, made at joining and now; the one of a rival commit.
    server.refuses(&alice, &with(added.group_info), "another state");
    let now = alice.group().export_group_info(&crypto, &alice.key, false).unwrap();
    server.refuses(&alice, &with(encode(now)), "another state");
    server.refuses(&alice, &with(of_bob.group_info.clone()), "another state");
    server.refuses(&alice, &with(sent.commit.clone()), "not a GroupInfo");

    // Those of the right epoch: by another member; with the tree; then the right one.
    bob.discard();
    bob.receive(&sent.commit);
    let others = bob.group().export_group_info(&crypto, &bob.key, false).unwrap();
    server.refuses(&alice, &with(encode(others)), "not signed by the committer");
    alice.merge();
    let with_tree = alice.group().export_group_info(&crypto, &alice.key, true).unwrap();
    server.refuses(&alice, &with(encode(with_tree)), "external_pub and nothing else");
    let forged = alice.group().export_group_info(&crypto, &bob.key, false).unwrap();
    server.refuses(&alice, &with(encode(forged)), "signature");
    let again = alice.group().export_group_info(&crypto, &alice.key, false).unwrap();
    server.commit(alice.sender(), &with(encode(again))).unwrap();
}
