use std::time::Duration;

use super::device::*;
use super::harness::*;
use crate::env::Entropy;
use crate::error::ErrorCode;
use crate::server::ServerSecrets;
use crate::server::audit::AuditKind;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::{Reply, Request};

#[test]
fn registers_logs_in_and_opens_a_session() {
    let mut world = World::new();
    let mut alice = Device::draft(&mut world, "alice");
    assert_eq!(alice.register(&mut world).unwrap(), Reply::Done);
    alice.log_in(&mut world, "secret").unwrap();
    assert_eq!(alice.register_device(&mut world).unwrap(), Reply::Done);
    let expires = alice.tokens.as_ref().unwrap().access_expires;
    match alice.resume(&mut world).unwrap() {
        Reply::Session { username, state_version, time, token_expires } => {
            assert_eq!(username, alice.username);
            assert_eq!((state_version, time, token_expires), (0, world.now.wall, expires));
        }
        other => panic!("{other:?}"),
    }
    let kinds: Vec<_> = world.audit.iter().map(|event| (event.kind, event.error)).collect();
    let expected =
        [AuditKind::Register, AuditKind::Login, AuditKind::DeviceRegister, AuditKind::Session];
    assert_eq!(kinds, expected.map(|kind| (kind, None)));
    assert_eq!(world.audit[3].device, Some(alice.sender().device));
}

#[test]
fn regression_27_nothing_printed_holds_a_token_or_a_password_file() {
    let mut world = World::new();
    world.keep_text = true;
    let mut alice = Device::new(&mut world, "alice");
    alice.reconnect(&mut world);
    let refresh = alice.refresh_request(&mut world);
    let before = alice.tokens.clone().unwrap();
    let Reply::Tokens(after) = world.call(alice.link, refresh).unwrap() else { panic!() };
    let row = match world.elsewhere(StoreOp::FindAccount { username: username("alice") }) {
        StoreReply::Account(Some(row)) => row,
        other => panic!("{other:?}"),
    };
    let text = format!("{}{:?}{:?}{:?}", world.text, world.server, world.audit, world.executed);
    assert!(text.contains("OpenSession") && text.contains("LoginFinish"), "it does print");
    let secrets = [
        &before.access.0[..],
        &before.refresh.0,
        &after.access.0,
        &after.refresh.0,
        &row.opaque_record,
    ];
    for secret in secrets {
        // As a list of numbers, as escaped bytes, as hexadecimal.
        let part = &secret[8..24];
        let numbers = format!("{part:?}");
        assert!(!text.contains(numbers.trim_matches(['[', ']'])));
        let escaped = format!("{:?}", bytes::Bytes::copy_from_slice(part));
        assert!(!text.contains(&escaped[2..escaped.len() - 1]));
        assert!(!text.contains(&data_encoding::HEXLOWER.encode(part)));
    }
}

#[test]
fn a_later_session_hears_of_the_highest_state_version() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    for (presented, before) in [(7, 1), (3, 7), (0, 7)] {
        alice.link = world.connect();
        let request = alice.resume_request(&mut world, presented);
        match world.call(alice.link, request).unwrap() {
            Reply::Session { state_version, .. } => assert_eq!(state_version, before),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn secrets_survive_encoding_and_nothing_else_decodes() {
    let secrets = ServerSecrets::generate(&mut Entropy::from_seed([1; 32]));
    let bytes = secrets.encode();
    let again = ServerSecrets::decode(&bytes).unwrap();
    assert_eq!(*again.encode(), *bytes);
    for cut in 0..bytes.len() {
        assert!(ServerSecrets::decode(&bytes[..cut]).is_none());
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(ServerSecrets::decode(&longer).is_none());
    longer.pop();
    longer[0] = 2;
    assert!(ServerSecrets::decode(&longer).is_none());
    assert_eq!(format!("{secrets:?}"), "ServerSecrets(…)");
}

/// An unknown user told apart by bytes or time (opaque-ke #164, #183): the same lengths and the same number of steps.
/// What of time is left is measured by `benches/tests/timing.rs`.
#[test]
fn regression_25_wrong_password_and_unknown_user_end_alike() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    for (name, outcome) in [("alice", &mut known), ("nobody", &mut unknown)] {
        alice.link = world.connect();
        alice.username = username(name);
        let before = (world.executed.len(), world.audit.len());
        let (_, finish, _) = alice.login_until_finish(&mut world, "guessed").unwrap();
        let failure = world.call(alice.link, finish).unwrap_err();
        assert_eq!(failure.code, ErrorCode::LoginFailed);
        outcome.push(format!("{failure:?}"));
        outcome.push(world.ends[&alice.link].received.to_string());
        outcome.push((world.executed.len() - before.0).to_string());
        outcome.push((world.audit.len() - before.1).to_string());
    }
    assert_eq!(known, unknown);
}

#[test]
fn a_session_has_to_be_opened_in_time() {
    let mut world = World::new();
    let link = world.connect();
    world.pass(Duration::from_millis(19_999));
    assert_eq!(world.close_code(link), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.close_code(link), Some(crate::error::CloseCode::TOO_SLOW));
    let alice = Device::new(&mut world, "alice");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.close_code(alice.link), None);
    assert_eq!(
        world.call(alice.link, Request::KeyPackageStatus { suite: None }).unwrap(),
        Reply::KeyPackages { available: 0, last_resort: false }
    );
}
