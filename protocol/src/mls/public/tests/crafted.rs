//! Commits that OpenMLS will not make: taken apart, changed, and signed anew by a member who means harm.

use super::world::*;
use crate::crypto::portable;
use crate::mls::path::read_leaf;
use crate::mls::public::outside::{Reader, read_framing, sign_content};
use crate::mls::suite::Suite;
use tls_codec::Serialize as _;

/// Behind version, wire format, group id, epoch, sender, empty authenticated data and content type.
const PROPOSALS: usize = 4 + 33 + 8 + 5 + 1 + 1;
/// Membership tag, confirmation tag, signature, each with its length in front.
const TAIL: usize = 33 + 33 + 66;

/// Signs the content of a commit again, in the present epoch (RFC 9420 §6.1).
fn sign(by: &Device, commit: &mut [u8]) {
    let end = commit.len() - TAIL;
    let context = by.group().public_group().group_context().tls_serialize_detached().unwrap();
    let signed = [&commit[..end], &context].concat();
    let signature = by.key.0.sign(portable(), &sign_content(b"MLS 1.0 FramedContentTBS", &signed));
    commit[end + 2..end + 66].copy_from_slice(&signature);
}

/// The commit with other proposals in place of its own.
fn with_proposals(by: &Device, commit: &[u8], proposals: &[Vec<u8>]) -> Vec<u8> {
    // Fewer than 64 bytes of them, so that their length is one byte.
    let behind = PROPOSALS + 1 + usize::from(commit[PROPOSALS]);
    assert!(commit[PROPOSALS] < 0x40);
    let proposals = proposals.concat();
    let length = 0x4000 | u16::try_from(proposals.len()).unwrap();
    let length = match proposals.len() {
        short @ 0..0x40 => vec![u8::try_from(short).unwrap()],
        _ => length.to_be_bytes().to_vec(),
    };
    let mut crafted = [&commit[..PROPOSALS], &length, &proposals, &commit[behind..]].concat();
    sign(by, &mut crafted);
    crafted
}

fn inline(kind: u16, content: &[u8]) -> Vec<u8> {
    [&[1], kind.to_be_bytes().as_slice(), content].concat()
}

#[test]
fn signing_anew_is_what_members_do() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let mut sent = alice.update();
    let before = sent.commit.clone();
    let end = sent.commit.len() - TAIL;
    sent.commit[end + 2..end + 66].fill(0);
    server.refuses(&alice, &sent, "");
    sign(&alice, &mut sent.commit);
    assert_eq!(sent.commit, before);
    server.commit(alice.sender(), &sent).unwrap();
}

#[test]
fn proposals_that_no_commit_may_have() {
    let World { mut server, mut alice, mut carol, mut bob, .. } = World::new(Suite::Classical);
    let leaving = carol.leave();
    server.propose(carol.sender(), &leaving).unwrap();
    let queued = server.state().queued().unwrap();
    let reference = queued[0].proposal_reference_ref().as_slice().to_vec();
    let reference = [vec![2, 32], reference].concat();
    let leaf = |device: &Device, alice: &Device| alice.leaf_of(device).u32().to_be_bytes().to_vec();
    let remove_carol = inline(3, &leaf(&carol, &alice));
    let remove_bob = inline(3, &leaf(&bob, &alice));
    let remove_alice = inline(3, &leaf(&alice, &alice));

    let sent = carol.commit(|builder| builder.consume_proposal_store(false));
    let herself = with_proposals(&carol, &sent.commit, std::slice::from_ref(&reference));
    server.refuses(&carol, &Sent { commit: herself, ..sent }, "removes its committer");

    // Whatever is crafted, carol goes: the path fits the tree without her.
    for device in [&mut alice, &mut bob] {
        device.receive(&leaving);
    }
    let sent = alice.update();
    let suite = Suite::Classical.number().to_be_bytes();
    let group = [vec![32], group_id().0.to_vec()].concat();
    let reinit = [group.as_slice(), &[0, 1], &suite, &[0]].concat();
    let mut psk = vec![1, 1, 7, 32];
    psk.extend_from_slice(&[9; 32]);
    let (role, twice) = ("removes its committer", "removed twice");
    let cases: [(&[Vec<u8>], &str); 9] = [
        // The same leaf by a wish of its own and by another's removal; by two removals.
        (&[reference.clone(), remove_carol.clone()], twice),
        (&[remove_bob.clone(), remove_bob.clone()], ""),
        (&[reference.clone(), remove_alice], ""),
        // A group that is to become another one, of another suite: that is a new generation.
        (&[reference.clone(), inline(5, &reinit)], "not allowed"),
        (&[reference.clone(), inline(4, &psk)], "not allowed"),
        (&[reference.clone(), inline(6, &[1, 0])], ""),
        // A wish to leave in the name of the committer; a kind that nobody knows.
        (&[reference.clone(), inline(0x000A, &[])], role),
        (&[reference.clone(), inline(0xF00F, &[0])], ""),
        (&[inline(3, &[0, 0, 0, 99])], ""),
    ];
    for (proposals, why) in cases {
        let commit = with_proposals(&alice, &sent.commit, proposals);
        server.refuses(&alice, &Sent { commit, ..sent.clone() }, why);
    }
    let unknown = with_proposals(&alice, &sent.commit, &[vec![2, 1, 0]]);
    server.refuses(&alice, &Sent { commit: unknown, ..sent.clone() }, "");
}

/// A vector with its length in front (RFC 9420 §2.1.2).
fn vector(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let length = match length {
        0..0x40 => vec![u8::try_from(length).unwrap()],
        0x40..0x4000 => (0x4000 | u16::try_from(length).unwrap()).to_be_bytes().to_vec(),
        _ => (0x8000_0000 | length).to_be_bytes().to_vec(),
    };
    [length.as_slice(), content].concat()
}

/// A node of a path: its key, and each ciphertext of its secret.
type Node = (Vec<u8>, Vec<Vec<u8>>);

/// The commit with another path.
fn with_path(by: &Device, commit: &[u8], change: impl Fn(&mut Vec<Node>)) -> Vec<u8> {
    let mut reader = Reader::new(commit);
    read_framing(&mut reader).unwrap();
    reader.vector().unwrap();
    assert_eq!(reader.u8(), Some(1));
    read_leaf(&mut reader).unwrap();
    let before = commit.len() - reader.rest().len();
    let mut list = Reader::new(reader.vector().unwrap());
    assert_eq!(reader.rest().len(), TAIL);
    let mut nodes = Vec::new();
    while !list.is_empty() {
        let key = list.vector().unwrap().to_vec();
        let mut sealed = Reader::new(list.vector().unwrap());
        let mut secrets = Vec::new();
        while !sealed.is_empty() {
            let (output, text) = (sealed.vector().unwrap(), sealed.vector().unwrap());
            secrets.push([vector(output), vector(text)].concat());
        }
        nodes.push((key, secrets));
    }
    change(&mut nodes);
    let nodes: Vec<u8> = nodes
        .into_iter()
        .flat_map(|(key, secrets)| [vector(&key), vector(&secrets.concat())].concat())
        .collect();
    let mut crafted = [&commit[..before], &vector(&nodes), &commit[commit.len() - TAIL..]].concat();
    sign(by, &mut crafted);
    crafted
}

/// The confirmed transcript hash after a commit of the present epoch (RFC 9420 §8.2).
fn transcript(by: &Device, commit: &[u8]) -> [u8; 32] {
    let before = by.group().public_group();
    let tag = before.confirmation_tag().tls_serialize_detached().unwrap();
    let interim = portable().sha256(&[before.group_context().confirmed_transcript_hash(), &tag]);
    portable().sha256(&[&interim, &commit[2..commit.len() - 66]])
}

/// The GroupInfo made for a commit, made to fit another.
fn info_for(by: &Device, sent: &Sent, commit: &[u8]) -> Vec<u8> {
    let (old, new) = (transcript(by, &sent.commit), transcript(by, commit));
    let mut info = sent.group_info.clone();
    let at = info.windows(32).position(|window| window == old).unwrap();
    info[at..at + 32].copy_from_slice(&new);
    let end = info.len() - 64;
    let content = sign_content(b"MLS 1.0 GroupInfoTBS", &info[4..end - 2]);
    info[end..].copy_from_slice(&by.key.0.sign(portable(), &content));
    info
}

/// Who commits cannot lock members out by sealing the new secrets for fewer than there are.
#[test]
fn paths_are_sealed_for_everyone() {
    for suite in Suite::ALL {
        let World { mut server, mut alice, .. } = World::new(suite);
        let sent = alice.update();
        assert_eq!(with_path(&alice, &sent.commit, |_| ()), sent.commit);
        let why = "not sealed for everyone";
        // Beside alice there is one, and in the other half of the tree another.
        for at in 0..2 {
            let mut refuses = |change: &dyn Fn(&mut Vec<Node>), why| {
                let commit = with_path(&alice, &sent.commit, change);
                let group_info = info_for(&alice, &sent, &commit);
                server.refuses(&alice, &Sent { commit, group_info, welcome: None }, why);
            };
            refuses(&|nodes| drop(nodes[at].1.pop()), why);
            refuses(&|nodes| nodes[at].1.extend_from_within(..1), why);
            refuses(&|nodes| drop(nodes.remove(at)), "");
        }
        assert_eq!(info_for(&alice, &sent, &sent.commit), sent.group_info);
        server.commit(alice.sender(), &sent).unwrap();
    }
}

/// Any byte of what is signed, changed and signed anew: whatever holds by itself is another commit than the
/// GroupInfo speaks of.
#[test]
fn every_byte_of_a_commit_is_bound_by_its_group_info() {
    for suite in Suite::ALL {
        let World { mut server, mut alice, carol, .. } = World::new(suite);
        let sent = alice.remove(&[alice.leaf_of(&carol)]);
        let end = sent.commit.len() - TAIL;
        let step = if suite == Suite::Hybrid { 7 } else { 1 };
        for at in (PROPOSALS..end).step_by(step) {
            let mut commit = sent.commit.clone();
            commit[at] ^= 1 << (at % 8);
            sign(&alice, &mut commit);
            let copy = server.state().commit(alice.sender(), &commit, None, &sent.group_info);
            assert!(copy.is_err(), "{at}");
        }
        server.commit(alice.sender(), &sent).unwrap();
    }
}

/// Every shortened tag is refused (openmls GHSA-8x3w-qj7j-gqhf).
#[test]
fn regression_13_a_shortened_confirmation_tag() {
    let World { mut server, mut alice, .. } = World::new(Suite::Classical);
    let sent = alice.update();
    let tag_at = sent.commit.len() - 66;
    let tag = sent.commit[tag_at + 1..tag_at + 33].to_vec();
    for length in 0..32_u8 {
        let short = [&[length], &tag[..usize::from(length)]].concat();
        let commit = [&sent.commit[..tag_at], &short, &sent.commit[tag_at + 33..]].concat();
        let group_info = shorten_info(&alice, &sent.group_info, &tag, &short);
        server.refuses(&alice, &Sent { commit, welcome: None, group_info }, "");
    }
    let same = shorten_info(&alice, &sent.group_info, &tag, &[vec![32], tag.clone()].concat());
    assert_eq!(same, sent.group_info);
    server.commit(alice.sender(), &sent).unwrap();
}

/// Puts another tag into a GroupInfo and signs it anew.
fn shorten_info(by: &Device, info: &[u8], tag: &[u8], new: &[u8]) -> Vec<u8> {
    let at = info.windows(tag.len()).rposition(|window| window == tag).unwrap();
    let signer = &info[at + 32..at + 36];
    assert_eq!(Reader::new(&info[at + 36..]).vector().unwrap().len(), 64);
    let signed = [&info[..at - 1], new, signer].concat();
    let content = sign_content(b"MLS 1.0 GroupInfoTBS", &signed[4..]);
    [&signed[..], &[0x40, 0x40], &by.key.0.sign(portable(), &content)].concat()
}
