use std::time::Duration;

use bytes::Bytes;

use super::device::*;
use super::harness::*;
use crate::auth::client::Registration;
use crate::crypto::identity::{DeviceKey, DeviceRecord, Revocation};
use crate::env::Entropy;
use crate::error::{CloseCode, ErrorCode};
use crate::id::{AccountId, DeviceId};
use crate::io::WakeReason;
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::StoreOp;
use crate::wire::message::{Push, Reply, Request};

#[test]
fn names_and_accounts_are_registered_once() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let mut other = Device::draft(&mut world, "alice");
    assert_eq!(code(other.register(&mut world)), ErrorCode::UsernameTaken);
    let mut again = Device::draft(&mut world, "alicia");
    again.account = alice.account.clone();
    assert_eq!(code(again.register(&mut world)), ErrorCode::AccountExists);
}

#[test]
fn registration_needs_the_account_key_and_a_greeting() {
    let mut world = World::new();
    let link = world.connect();
    let early = Request::RegisterStart { username: username("a"), request: vec![0; 32].into() };
    assert_eq!(world.fails(link, early), ErrorCode::BadRequest);
    hello(&mut world, link);
    let finish = |upload: Vec<u8>| Request::RegisterFinish {
        username: username("a"),
        upload: upload.into(),
        account: AccountId([1; 32]),
        sealed_account_key: vec![1; 49].into(),
        proof: [1; 64],
    };
    assert_eq!(world.fails(link, finish(vec![1; 192])), ErrorCode::BadRequest);
    let (_, good) =
        Registration::start(&mut Entropy::from_seed([8; 32]), password("secret")).unwrap();
    let start = |name| Request::RegisterStart { username: username(name), request: good.clone() };
    assert!(world.call(link, start("b")).is_ok());
    assert_eq!(world.fails(link, finish(vec![1; 192])), ErrorCode::BadRequest, "another name");
    assert!(world.call(link, start("a")).is_ok());
    assert_eq!(world.fails(link, finish(vec![1; 192])), ErrorCode::ProofInvalid);
    let audited = world.audit.last().unwrap();
    assert_eq!((audited.kind, audited.error), (AuditKind::Register, Some(ErrorCode::ProofInvalid)));
    assert_eq!(world.fails(link, finish(vec![1; 192])), ErrorCode::BadRequest, "once");
    // 32 bytes of 255 are no point.
    let bad = Request::RegisterStart { username: username("a"), request: vec![255; 32].into() };
    assert_eq!(world.fails(link, bad), ErrorCode::BadRequest);
    let ke1 = Bytes::from(vec![255; 96]);
    let bad = Request::LoginStart { username: username("a"), ke1 };
    assert_eq!(world.fails(link, bad), ErrorCode::BadRequest);
    let finish = Request::LoginFinish {
        ke3: vec![0; 64].into(),
        device: DeviceId([1; 16]),
        device_key: [1; 32],
        signature: [1; 64],
    };
    assert_eq!(world.fails(link, finish), ErrorCode::BadRequest, "no login under way");
}

#[test]
fn a_login_needs_the_devices_signature_and_serves_once() {
    let mut world = World::new();
    let mut alice = Device::draft(&mut world, "alice");
    alice.register(&mut world).unwrap();
    let (_, finish, _) = alice.login_until_finish(&mut world, "secret").unwrap();
    let Request::LoginFinish { ke3, device, device_key, mut signature } = finish else { panic!() };
    signature[0] ^= 1;
    let bent = Request::LoginFinish { ke3, device, device_key, signature };
    assert_eq!(world.fails(alice.link, bent), ErrorCode::ProofInvalid);
    assert_eq!(world.fails(alice.link, alice.device_request()), ErrorCode::NotLoggedIn);
    let (_, finish, _) = alice.login_until_finish(&mut world, "secret").unwrap();
    assert!(world.call(alice.link, finish.clone()).is_ok());
    assert_eq!(world.fails(alice.link, finish), ErrorCode::BadRequest);
}

#[test]
fn failed_logins_use_up_the_names_budget_known_or_not() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    for name in ["alice", "nobody"] {
        alice.username = username(name);
        for _ in 0..limits::LOGINS_PER_ACCOUNT {
            alice.link = world.connect();
            let (_, finish, _) = alice.login_until_finish(&mut world, "wrong").unwrap();
            assert_eq!(world.fails(alice.link, finish), ErrorCode::LoginFailed);
        }
        let executed = world.executed.len();
        let refused = alice.login_until_finish(&mut world, "secret").err().unwrap();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert!(refused.retry_after_ms > 1_000);
        assert_eq!(world.executed.len(), executed, "refused before any work");
        assert_eq!(world.audit.last().unwrap().kind, AuditKind::Limit);
    }
    // Successful ones give their share back; after the window all is well again.
    world.pass(limits::LOGIN_WINDOW * 9 / 8);
    alice.username = username("alice");
    for _ in 0..2 * limits::LOGINS_PER_ACCOUNT {
        alice.link = world.connect();
        alice.log_in(&mut world, "secret").unwrap();
    }
}

#[test]
fn one_source_starts_so_many_registrations() {
    let mut world = World::with(|config| config.logins_per_source = 3);
    let link = world.connect();
    hello(&mut world, link);
    let mut alice = Device::draft(&mut world, "alice");
    alice.register(&mut world).unwrap();
    for _ in 0..2 {
        alice.log_in(&mut world, "secret").unwrap();
    }
    assert_eq!(code(alice.register(&mut world)), ErrorCode::RateLimited);
    assert_eq!(alice.log_in(&mut world, "secret").unwrap_err().code, ErrorCode::RateLimited);
}

#[test]
fn tokens_hold_for_their_device_their_server_and_their_time_only() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    bob.link = world.connect();
    // Another's token.
    let own = bob.tokens.clone();
    bob.tokens = alice.tokens.clone();
    assert_eq!(code(bob.resume(&mut world)), ErrorCode::TokenInvalid);
    bob.tokens = own;
    // A stolen token without the device's key, which moves nothing.
    let thief = DeviceKey::generate(backend(), &mut world.entropy);
    let key = core::mem::replace(&mut alice.local.key, thief);
    alice.link = world.connect();
    let request = alice.resume_request(&mut world, 1_000);
    assert_eq!(world.fails(alice.link, request), ErrorCode::ProofInvalid);
    alice.local.key = key;
    match alice.resume(&mut world).unwrap() {
        Reply::Session { state_version, .. } => assert_eq!(state_version, 1),
        other => panic!("{other:?}"),
    }
    // A proof of another connection.
    let old = alice.resume_request(&mut world, 1);
    alice.link = world.connect();
    hello(&mut world, alice.link);
    assert_eq!(world.fails(alice.link, old), ErrorCode::ProofInvalid);
    // Tampered, and over.
    let mut request = alice.resume_request(&mut world, 1);
    if let Request::Resume { token, .. } = &mut request {
        token.0[40] ^= 1;
    }
    assert_eq!(world.fails(alice.link, request), ErrorCode::TokenInvalid);
    world.now.wall = alice.tokens.as_ref().unwrap().access_expires;
    assert_eq!(code(alice.resume(&mut world)), ErrorCode::TokenExpired);
    world.now.wall = world.now.wall.minus(Duration::from_millis(1));
    alice.resume(&mut world).unwrap();
    assert_eq!(code(alice.resume(&mut world)), ErrorCode::BadRequest, "it is open");
}

#[test]
fn a_session_needs_a_registered_device() {
    let mut world = World::new();
    let mut alice = Device::draft(&mut world, "alice");
    alice.register(&mut world).unwrap();
    alice.log_in(&mut world, "secret").unwrap();
    assert_eq!(code(alice.resume(&mut world)), ErrorCode::DeviceUnknown);
}

#[test]
fn refresh_tokens_buy_new_ones_and_a_lost_answer_loses_nothing() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    world.pass(Duration::from_secs(1));
    let first = alice.refresh_request(&mut world);
    let Reply::Tokens(tokens) = world.call(alice.link, first.clone()).unwrap() else { panic!() };
    // The answer got lost: the old token is worth the same successor.
    world.pass(Duration::from_secs(1));
    let Reply::Tokens(again) = world.call(alice.link, first.clone()).unwrap() else { panic!() };
    assert_eq!(again.refresh, tokens.refresh);
    assert!(again.access != tokens.access && again.refresh_expires > tokens.refresh_expires);
    let old = alice.tokens.replace(again).unwrap();
    alice.reconnect(&mut world);
    let second = alice.refresh_request(&mut world);
    let Reply::Tokens(newer) = world.call(alice.link, second).unwrap() else { panic!() };
    // The successor was used: the first one is worth nothing any more.
    let current = alice.tokens.replace(old);
    let stale = alice.refresh_request(&mut world);
    assert_eq!(world.fails(alice.link, stale), ErrorCode::TokenInvalid);
    alice.tokens = current;
    // Not with another key, nor for another, nor after its end.
    alice.tokens = Some(newer);
    let thief = DeviceKey::generate(backend(), &mut world.entropy);
    let key = core::mem::replace(&mut alice.local.key, thief);
    let forged = alice.refresh_request(&mut world);
    assert_eq!(world.fails(alice.link, forged), ErrorCode::ProofInvalid);
    alice.local.key = key;
    let mut access = alice.refresh_request(&mut world);
    if let Request::Refresh { token, .. } = &mut access {
        *token = alice.tokens.as_ref().unwrap().access.clone();
    }
    assert_eq!(world.fails(alice.link, access), ErrorCode::TokenInvalid);
    let request = alice.refresh_request(&mut world);
    world.now.wall = alice.tokens.as_ref().unwrap().refresh_expires;
    assert_eq!(world.fails(alice.link, request), ErrorCode::TokenExpired);
}

#[test]
fn logout_ends_tokens_and_the_devices_other_connections() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let first = alice.link;
    let second = alice.reconnect(&mut world);
    let phone = alice.sibling(&mut world);
    assert_eq!(world.call(second, Request::Logout).unwrap(), Reply::Done);
    assert_eq!(world.pushes(first), [Push::SessionEnded]);
    assert_eq!(
        world.fails(second, Request::KeyPackageStatus { suite: None }),
        ErrorCode::NotLoggedIn
    );
    world.pass(Duration::from_millis(100));
    assert_eq!(world.close_code(first), Some(CloseCode::SESSION_ENDED));
    assert_eq!(world.close_code(second), None);
    assert_eq!(code(alice.resume(&mut world)), ErrorCode::TokenInvalid);
    let refresh = alice.refresh_request(&mut world);
    assert_eq!(world.fails(second, refresh), ErrorCode::TokenInvalid);
    assert!(world.call(phone.link, Request::KeyPackageStatus { suite: None }).is_ok());
    // Nobody stays without a session for ever.
    world.pass(limits::HANDSHAKE_TIME);
    assert_eq!(world.close_code(second), Some(CloseCode::TOO_SLOW));
}

/// Within the millisecond of the logout, and by a clock that was set back since.
#[test]
fn a_login_right_after_a_logout_opens_a_session() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    for back in [0, 60_000] {
        let ended = alice.tokens.clone();
        assert_eq!(world.call(alice.link, Request::Logout).unwrap(), Reply::Done);
        world.now.wall = world.now.wall.minus(Duration::from_millis(back));
        alice.link = world.connect();
        assert_eq!(code(alice.resume(&mut world)), ErrorCode::TokenInvalid);
        alice.log_in(&mut world, "secret").unwrap();
        alice.resume(&mut world).unwrap();
        // What the next refresh token buys holds as well, and what was ended does not come back.
        let refresh = alice.refresh_request(&mut world);
        let Reply::Tokens(tokens) = world.call(alice.link, refresh).unwrap() else { panic!() };
        alice.tokens = ended;
        alice.link = world.connect();
        assert_eq!(code(alice.resume(&mut world)), ErrorCode::TokenInvalid);
        alice.tokens = Some(tokens);
        alice.reconnect(&mut world);
    }
}

#[test]
fn device_records_have_to_hold() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let bob = Device::new(&mut world, "bob");
    let good = alice.device_request();
    assert_eq!(world.call(alice.link, good.clone()).unwrap(), Reply::Done);
    let Request::DeviceRegister { record, envelope_keys } = good else { panic!() };
    let request = |record: &DeviceRecord| Request::DeviceRegister {
        record: record.clone(),
        envelope_keys: envelope_keys.clone(),
    };
    let mut forged = record.clone();
    forged.signature[3] ^= 1;
    assert_eq!(world.fails(alice.link, request(&forged)), ErrorCode::RecordInvalid);
    // Another's, a future one, one whose envelope keys another device signed.
    assert_eq!(world.fails(alice.link, bob.device_request()), ErrorCode::RecordInvalid);
    let sign = |sequence, from| {
        let (device, key) = (record.device, record.device_key);
        DeviceRecord::sign(backend(), &alice.account, device, key, sequence, from)
    };
    let early = sign(2, world.now.wall.plus(limits::CLOCK_SKEW + Duration::from_millis(1)));
    assert_eq!(world.fails(alice.link, request(&early)), ErrorCode::RecordInvalid);
    let stale = sign(0, world.now.wall);
    assert_eq!(world.fails(alice.link, request(&stale)), ErrorCode::RecordStale);
    let next = DeviceKey::generate(backend(), &mut world.entropy);
    let rekeyed = DeviceRecord::sign(
        backend(),
        &alice.account,
        record.device,
        next.public(),
        2,
        world.now.wall,
    );
    assert_eq!(world.fails(alice.link, request(&rekeyed)), ErrorCode::RecordInvalid);
    // Rotated: the open session goes on under the new key.
    alice.local.key = next;
    alice.local.record = rekeyed;
    assert_eq!(world.call(alice.link, alice.device_request()).unwrap(), Reply::Done);
    alice.upload(&mut world, 1);
}

#[test]
fn an_account_has_so_many_devices() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    for _ in 1..limits::DEVICES_PER_ACCOUNT {
        alice.sibling(&mut world);
    }
    let mut more = Device { link: world.connect(), ..alice };
    more.local.key = DeviceKey::generate(backend(), &mut world.entropy);
    let key = more.local.key.public();
    more.local.record =
        DeviceRecord::sign(backend(), &more.account, DeviceId([1; 16]), key, 1, START);
    more.log_in(&mut world, "secret").unwrap();
    assert_eq!(code(more.register_device(&mut world)), ErrorCode::DeviceLimit);
}

#[test]
fn revoking_a_device_ends_it_everywhere() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let mut phone = alice.sibling(&mut world);
    let bob = Device::new(&mut world, "bob");
    let device = phone.sender().device;
    assert_eq!(world.fails(bob.link, alice.revocation(device, &world)), ErrorCode::RecordInvalid);
    let at = world.now.wall;
    let forged = Revocation::sign(backend(), &bob.account, device, at);
    let forged = Revocation { account: alice.id(), ..forged };
    let forged = Request::DeviceRevoke { revocation: forged };
    assert_eq!(world.fails(alice.link, forged), ErrorCode::RecordInvalid);
    let unknown = alice.revocation(DeviceId([9; 16]), &world);
    assert_eq!(world.fails(alice.link, unknown), ErrorCode::DeviceUnknown);

    let revocation = alice.revocation(device, &world);
    assert_eq!(world.call(alice.link, revocation).unwrap(), Reply::Done);
    assert_eq!(world.pushes(phone.link), [Push::SessionEnded]);
    // From the moment of its revocation nothing is taken from it.
    let executed = world.executed.len();
    world.ask(phone.link, Request::KeyPackageStatus { suite: None });
    world.settle();
    assert_eq!(world.executed.len(), executed);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.close_code(phone.link), Some(CloseCode::SESSION_ENDED));
    phone.link = world.connect();
    assert_eq!(code(phone.resume(&mut world)), ErrorCode::DeviceRevoked);
    assert_eq!(phone.log_in(&mut world, "secret").unwrap_err().code, ErrorCode::DeviceRevoked);
    let request = Request::DeviceList { account: alice.id() };
    match world.call(bob.link, request).unwrap() {
        Reply::Devices(devices) => {
            assert_eq!(devices.len(), 2);
            let revoked = devices.iter().find(|entry| entry.record.device == device).unwrap();
            revoked.revocation.as_ref().unwrap().verify(backend()).unwrap();
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_list_stays_within_its_bound() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    for number in 0..limits::DEVICES_LISTED + 5 {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&(number as u64).to_be_bytes());
        let device = DeviceId(id);
        let at = START.plus(Duration::from_secs(number as u64));
        let record = DeviceRecord::sign(backend(), &alice.account, device, [1; 32], 1, START);
        let mut envelope_keys = alice.envelope_keys();
        envelope_keys.sender = record.sender();
        world.elsewhere(StoreOp::PutDevice { record, envelope_keys, most: 16, at, expires: at });
        let revocation = Revocation::sign(backend(), &alice.account, device, at);
        let (by, most) = (alice.sender(), 1);
        world.elsewhere(StoreOp::RevokeDevice { revocation, by, most, at, expires: at });
    }
    match world.call(alice.link, Request::DeviceList { account: alice.id() }).unwrap() {
        Reply::Devices(devices) => {
            assert_eq!(devices.len(), limits::DEVICES_LISTED);
            assert!(devices.is_sorted_by_key(|entry| entry.record.device));
            let own = devices.iter().filter(|entry| entry.revocation.is_none()).count();
            assert_eq!(own, 1);
            let ids: Vec<_> = devices.iter().map(|entry| entry.record.device.0[15]).collect();
            assert_eq!(ids[0], 6, "the oldest six are left out");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lookups_take_their_time_and_are_limited() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let bob = Device::new(&mut world, "bob");
    let start = world.now.mono;
    let known = world.ask(alice.link, Request::AccountLookup { username: username("bob") });
    let unknown = world.ask(alice.link, Request::AccountLookup { username: username("carol") });
    world.settle();
    assert!(world.answer(alice.link, known).is_none());
    assert_eq!(world.idle, (Some(start + limits::LOOKUP_TIME), WakeReason::Floor));
    world.pass(limits::LOOKUP_TIME - Duration::from_nanos(1));
    assert!(world.answer(alice.link, unknown).is_none());
    world.pass(Duration::from_nanos(1));
    let reply = world.answer(alice.link, known).unwrap().unwrap();
    assert_eq!(reply, Reply::Account { username: username("bob"), account: bob.id() });
    assert_eq!(code(world.answer(alice.link, unknown).unwrap()), ErrorCode::AccountUnknown);
    for _ in 2..limits::LOOKUPS_PER_MINUTE {
        world.ask(alice.link, Request::AccountLookup { username: username("carol") });
    }
    world.settle();
    let request = Request::AccountLookup { username: username("bob") };
    let refused = world.call(alice.link, request.clone()).unwrap_err();
    assert_eq!(refused.code, ErrorCode::RateLimited);
    // Another account has its own.
    world.ask(bob.link, request.clone());
    world.settle();
    world.pass(Duration::from_millis(refused.retry_after_ms.into()));
    world.ask(alice.link, request);
    world.settle();
    world.pass(limits::LOOKUP_TIME);
    let last = world.ends[&alice.link].inbox.back().unwrap();
    assert!(matches!(&last.body, crate::wire::message::Body::Reply(Reply::Account { .. })));
}

#[test]
fn an_account_is_deleted_by_its_key_only() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let phone = alice.sibling(&mut world);
    let forged = Request::AccountDelete { proof: [1; 64] };
    assert_eq!(world.fails(alice.link, forged), ErrorCode::ProofInvalid);
    // A proof of another connection.
    let other = phone.deletion(&mut world);
    assert_eq!(world.fails(alice.link, other), ErrorCode::ProofInvalid);
    let request = alice.deletion(&mut world);
    assert_eq!(world.call(alice.link, request).unwrap(), Reply::Done);
    assert_eq!(world.pushes(phone.link), [Push::SessionEnded]);
    assert_eq!(
        world.fails(alice.link, Request::KeyPackageStatus { suite: None }),
        ErrorCode::NotLoggedIn
    );
    world.pass(Duration::from_millis(100));
    assert_eq!(world.close_code(phone.link), Some(CloseCode::SESSION_ENDED));
    let mut again = Device::draft(&mut world, "alice");
    assert_eq!(code(again.register(&mut world)), ErrorCode::UsernameTaken);
    assert_eq!(again.log_in(&mut world, "secret").unwrap_err().code, ErrorCode::LoginFailed);
}
