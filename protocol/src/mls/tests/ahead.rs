//! Signatures verified ahead of OpenMLS: found where they are, and never taken for more than they are.

use openmls::prelude::RatchetTreeIn;
use openmls::treesync::RatchetTree;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::types::SignatureScheme;
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::bytes::{crowd, device};
use super::world::{GROUP, World, adding};
use crate::crypto::portable;
use crate::mls::Crypto;
use crate::mls::MlsError;
use crate::mls::group::Plan;
use crate::mls::parallel::MANY;
use crate::mls::suite::Suite;
use crate::mls::verified::Verified;

/// What OpenMLS itself says of a tree, with a provider that knows `verified`.
fn openmls(suite: Suite, verified: Verified, tree: &[u8]) -> Option<RatchetTree> {
    let crypto = Crypto::verifier(portable());
    crypto.know(verified);
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap();
    let group = openmls::group::GroupId::from_slice(GROUP.as_bytes());
    tree.into_verified(suite.ciphersuite(), &crypto, &group).ok()
}

/// A tree with leaves from key packages and leaves from commits.
fn tree(suite: Suite) -> Vec<u8> {
    let (mut world, mut here) = crowd(suite, 70);
    world.turn(&mut here, 1, &Plan::default());
    world.turn(&mut here, 2, &Plan::default());
    world.server.tree().unwrap()
}

#[test]
fn every_leaf_of_a_tree_is_found_under_the_name_that_openmls_asks_for() {
    for suite in Suite::ALL {
        let tree = tree(suite);
        let group = GROUP.as_bytes();
        assert_eq!(Verified::of_tree(portable(), group, &tree).len(), 70);
        let broken = break_signatures(&tree);
        assert_eq!(Verified::of_tree(portable(), group, &broken).len(), 0);
        assert!(openmls(suite, Verified::of_tree(portable(), group, &broken), &broken).is_none());
        // With a false word for each of them OpenMLS takes the tree: these are all the names that it asks for.
        assert!(openmls(suite, Verified::if_all_held(group, &broken), &broken).is_some());
        assert!(
            openmls(suite, Verified::if_all_held(b"another group", &broken), &broken).is_none()
        );
    }
}

/// The same tree with one bit of every leaf's signature turned. An Ed25519 signature ends with a byte below 16.
fn break_signatures(tree: &[u8]) -> Vec<u8> {
    let mut broken = tree.to_vec();
    let parsed = RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap();
    for leaf in parsed.leaves() {
        let leaf = leaf.tls_serialize_detached().unwrap();
        let at = tree.windows(leaf.len()).position(|part| part == leaf).unwrap();
        broken[at + leaf.len() - 1] ^= 1;
    }
    broken
}

#[test]
fn a_joiner_refuses_a_tree_with_one_wrong_signature_among_many() {
    let (mut world, mut here) = crowd(Suite::Classical, 70);
    let mut guest = device(500);
    let package = guest.package(Suite::Classical, false);
    let bundle = here[0].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut here[0], &bundle).unwrap();
    let welcome = bundle.welcome.unwrap();
    let leaf = &here[2].group().mls.own_leaf().unwrap().tls_serialize_detached().unwrap();
    let at = tree.windows(leaf.len()).position(|part| part == leaf).unwrap();
    let mut wrong = tree.clone();
    wrong[at + leaf.len() - 1] ^= 1;
    assert!(matches!(guest.join(&welcome, &wrong), Err(MlsError::Invalid(_))));
    guest.join(&welcome, &tree).unwrap();
}

#[test]
fn key_packages_of_a_commit_that_adds_many_are_found() {
    let mut here = [device(0), device(1)];
    let mut world = World::new(Suite::Classical, &mut here);
    let packages: Vec<_> = (2..80).map(|n| device(n).package(Suite::Classical, false)).collect();
    let few = here[0].commit(&adding(&packages[..MANY / 2 - 1])).unwrap();
    assert_eq!(Verified::of_commit(portable(), &few.commit).len(), 0);
    here[0].run(|group, _, _| group.discard_pending()).unwrap();
    let bundle = here[0].commit(&adding(&packages)).unwrap();
    let found = Verified::of_commit(portable(), &bundle.commit);
    assert_eq!(found.len(), 2 * packages.len());
    world.accept(&mut here[0], &bundle).unwrap();
    assert_eq!(here[1].follow(&bundle.commit).unwrap().added.len(), packages.len());
    world.agree(&here.iter().collect::<Vec<_>>());
}

#[test]
fn a_known_signature_is_that_one_and_no_other() {
    let crypto = Crypto::verifier(portable());
    let tree = tree(Suite::Classical);
    crypto.know(Verified::of_tree(portable(), GROUP.as_bytes(), &tree));
    let key = device(1).local.key.clone();
    let signature = key.sign(portable(), b"content");
    let verify = |content: &[u8], public: &[u8], signature: &[u8]| {
        crypto.verify_signature(SignatureScheme::ED25519, content, public, signature)
    };
    assert_eq!(verify(b"content", &key.public(), &signature), Ok(()));
    assert!(verify(b"Content", &key.public(), &signature).is_err());
    assert!(verify(b"content", &device(2).local.key.public(), &signature).is_err());
    assert!(verify(b"content", &key.public(), &[0; 64]).is_err());
}
