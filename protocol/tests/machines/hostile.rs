//! Bad input and servers that lie: each is told by an error or event of its own, what can go on goes on, and nothing
//! that was accepted is lost.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use bytes::Bytes;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{AccountId, DeviceId, MessageId};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::group::LocalDevice;
use qpc_protocol::mls::key_package::KeyPackages;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{
    Body, ClaimedKeyPackage, Failure, Frame, Part, Push, Reply, Request,
};
use qpc_sim::world::{Rules, World};

/// A device of an account that the server made up: everything is in order but the account's signature.
fn invented(account: AccountId, suite: Suite) -> (DeviceId, Bytes) {
    let backend = portable();
    let mut entropy = Entropy::from_seed([66; 32]);
    let key = DeviceKey::generate(backend, &mut entropy);
    let forger = AccountKey::generate(backend, &mut entropy);
    let device = DeviceId([6; 16]);
    let wall = qpc_protocol::env::UnixMillis(1_800_000_000_000);
    let mut record = DeviceRecord::sign(backend, &forger, device, key.public(), 1, wall);
    // A package of the forger's own, as a client would make it, then moved to the other account.
    let local = LocalDevice::new(key, record.clone());
    let mut packages = KeyPackages::restore(Vec::new()).unwrap();
    let cx = Context { backend, entropy: &mut entropy, wall };
    let mut package = packages.generate(cx, &local, suite, false).unwrap();
    record.account = account;
    let (old, new) = (local.record.encode(), record.encode());
    let at = package.windows(old.len()).position(|window| window == old).unwrap();
    package[at..at + new.len()].copy_from_slice(&new);
    (device, package.into())
}

// ---- people and devices that are not what they say --------------------------------------------

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let mut world = World::new(Rules::new(1));
    world.register("alice");
    let device = world.device();
    let wrong =
        fails(&mut world, device, |c, now| c.login(now, "alice", "wrong".to_owned().into()));
    let unknown = fails(&mut world, device, |c, now| c.login(now, "nobody", "x".to_owned().into()));
    assert_eq!(code(&wrong), ErrorCode::LoginFailed);
    assert_eq!(wrong, unknown);
    // The same connection serves the right one.
    let password = "password of alice".to_owned();
    world.done(device, |client, now| client.login(now, "alice", password.into()));
}

#[test]
fn a_name_that_is_taken_is_refused_and_leaves_the_device_free() {
    let mut world = World::new(Rules::new(2));
    world.register("alice");
    let device = world.device();
    let taken = fails(&mut world, device, |c, now| c.register(now, "alice", "x".to_owned().into()));
    assert_eq!(code(&taken), ErrorCode::UsernameTaken);
    world.done(device, |c, now| c.register(now, "alicia", "x".to_owned().into()));
}

#[test]
fn a_registration_whose_answer_was_lost_is_finished() {
    let mut world = World::new(Rules::new(3));
    let device = world.device();
    let lost = Rc::new(RefCell::new(false));
    let seen = lost.clone();
    let registering = Rc::new(RefCell::new(0));
    let calls = registering.clone();
    world.liar = Some(Box::new(move |_, up, frame| {
        if up && matches!(frame.body, Body::Request(Request::RegisterFinish { .. })) {
            *calls.borrow_mut() = frame.call;
        }
        let answer = !up && frame.call == *calls.borrow() && frame.call > 0;
        if answer && !*seen.borrow() {
            *seen.borrow_mut() = true;
            return vec![];
        }
        vec![frame]
    }));
    let ticket =
        world.command(device, |c, now| c.register(now, "alice", "secret".to_owned().into()));
    world.run();
    assert!(*lost.borrow());
    world.cut(device);
    assert!(matches!(world.outcome(device, ticket), Outcome::Account { .. }));
}

#[test]
fn an_expired_access_token_is_refreshed_and_an_expired_refresh_token_ends_the_session() {
    let (mut world, channel) = three(4);
    for (span, ended) in [(2, false), (31 * 24, true)] {
        world.devices[BOB].connect = false;
        world.cut(BOB);
        // The others stay: only bob is away for so long.
        world.advance(Duration::from_secs(span * 3600));
        world.devices[BOB].connect = true;
        world.pass(Duration::from_secs(120));
        let over = saw(&world, BOB, |e| matches!(e, Event::SessionEnded(ErrorCode::TokenExpired)));
        assert_eq!(over, ended);
    }
    let now = world.now;
    assert_eq!(world.client(BOB).send(now, channel, b"x"), Err(Refused::LoggedOut));
    let password = "password of bob".to_owned();
    world.done(BOB, |client, now| client.login(now, "bob", password.into()));
    said(&mut world, BOB, channel, "back");
    world.settle();
    assert_eq!(world.bodies(ALICE), ["back"]);
}

#[test]
fn a_foreign_token_opens_nothing() {
    let (mut world, _) = three(5);
    let stolen = Rc::new(RefCell::new(None));
    let seen = stolen.clone();
    // Bob's connection presents what alice's presented.
    world.liar = Some(Box::new(move |device, up, mut frame| {
        if let (true, Body::Request(Request::Resume { token, .. })) = (up, &mut frame.body) {
            match (device, seen.borrow().as_ref()) {
                (ALICE, _) => {}
                (BOB, Some(alices)) => *token = Clone::clone(alices),
                _ => {}
            }
            if device == ALICE {
                *seen.borrow_mut() = Some(token.clone());
            }
        }
        vec![frame]
    }));
    world.cut(ALICE);
    world.settle();
    assert!(stolen.borrow().is_some());
    world.devices[BOB].log.clear();
    world.cut(BOB);
    world.pass(Duration::from_secs(5));
    // Refused, renewed, refused again: the session is over, and nobody was let in.
    assert!(!saw(&world, BOB, |event| matches!(event, Event::Online { .. })));
    assert!(saw(&world, BOB, |e| matches!(e, Event::SessionEnded(ErrorCode::TokenInvalid))));
}

#[test]
fn a_device_that_the_server_invented_is_named_and_not_invited() {
    let mut world = World::new(Rules::new(6));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_of(&mut world, alice, &[]);
    let account = world.client(bob).whoami().unwrap().1.account;
    lie_reply(&mut world, alice, move |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            let (device, package) = invented(account, Suite::Classical);
            let package = Some(package);
            claimed.push(ClaimedKeyPackage { device, package, last_resort: false });
        }
    });
    world.done(alice, |client, now| client.invite(now, channel, "bob"));
    let named = |event: &Event| matches!(event, Event::NotAdded { why, .. } if !why.is_empty());
    assert!(saw(&world, alice, named), "{:?}", world.devices[alice].log);
    assert_eq!(world.group(alice, channel).members, 2);
    world.liar = None;
    world.settle();
    agree(&world, channel, &[alice, bob]);
}

#[test]
fn a_key_package_of_another_account_is_not_taken_for_the_invited_one() {
    let mut world = World::new(Rules::new(7));
    let alice = world.register("alice");
    world.register("bob");
    let mallory = world.register("mallory");
    let channel = group_of(&mut world, alice, &[]);
    let account = world.client(mallory).whoami().unwrap().1.account;
    // Asked for bob's packages, the server hands out mallory's.
    lie(&mut world, alice, true, move |mut frame| {
        if let Body::Request(Request::KeyPackageFetch { account: asked, .. }) = &mut frame.body {
            *asked = account;
        }
        vec![frame]
    });
    let failed = fails(&mut world, alice, |client, now| client.invite(now, channel, "bob"));
    assert!(matches!(failed, Failed::Untrusted(_)), "{failed:?}");
    assert_eq!(world.group(alice, channel).members, 1);
}

#[test]
fn a_name_that_leads_elsewhere_is_told_and_not_followed() {
    let mut world = World::new(Rules::new(8));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let mallory = world.register("mallory");
    let channel = group_of(&mut world, alice, &[]);
    let of = |world: &mut World, device| world.client(device).whoami().unwrap().1.account;
    let (bobs, mallorys) = (of(&mut world, bob), of(&mut world, mallory));
    world.done(alice, |client, now| client.lookup(now, "bob"));
    lie_reply(&mut world, alice, move |reply| {
        if let Reply::Account { account, .. } = reply
            && *account == bobs
        {
            *account = mallorys;
        }
    });
    let failed = fails(&mut world, alice, |client, now| client.invite(now, channel, "bob"));
    assert!(matches!(failed, Failed::NameChanged(_)), "{failed:?}");
    let told = |event: &Event| matches!(event, Event::AccountChanged { before, now, .. } if (*before, *now) == (bobs, mallorys));
    assert!(saw(&world, alice, told));
    assert_eq!(world.group(alice, channel).members, 1);
}

#[test]
fn a_device_list_with_a_device_of_nobody_is_not_shown() {
    let mut world = World::new(Rules::new(9));
    let alice = world.register("alice");
    world.settle();
    lie_reply(&mut world, alice, |reply| {
        if let Reply::Devices(devices) = reply {
            let mut more = devices[0].clone();
            more.record.device = DeviceId([7; 16]);
            devices.push(more);
        }
    });
    let failed = fails(&mut world, alice, |client, now| client.devices(now));
    assert!(matches!(failed, Failed::Untrusted(_)), "{failed:?}");
}

#[test]
fn a_device_record_with_a_wrong_signature_is_refused_by_the_server() {
    let mut world = World::new(Rules::new(10));
    let device = world.device();
    lie(&mut world, device, true, |mut frame| {
        if let Body::Request(Request::DeviceRegister { record, .. }) = &mut frame.body {
            record.signature[5] ^= 1;
        }
        vec![frame]
    });
    let failed = fails(&mut world, device, |c, now| c.register(now, "eve", "x".to_owned().into()));
    assert_eq!(code(&failed), ErrorCode::RecordInvalid);
    world.liar = None;
    let password = "x".to_owned();
    world.done(device, |client, now| client.login(now, "eve", password.into()));
    group_of(&mut world, device, &[]);
}

// ---- requests that a member or a stranger must not make ---------------------------------------

/// Sends a request in the name of a device, in place of its next ping, and hands back the answer.
fn ask_as(world: &mut World, device: usize, request: Request) -> Result<Reply, Failure> {
    let answer: Rc<RefCell<Option<Result<Reply, Failure>>>> = Rc::default();
    let (call, asked) = (Rc::new(RefCell::new(0)), RefCell::new(Some(request)));
    let told = answer.clone();
    world.liar = Some(Box::new(move |of, up, frame| {
        if of != device {
            return vec![frame];
        }
        if up && matches!(frame.body, Body::Request(Request::Ping(_))) {
            let Some(request) = asked.borrow_mut().take() else { return vec![frame] };
            *call.borrow_mut() = frame.call;
            return vec![Frame { call: frame.call, body: Body::Request(request) }];
        }
        if !up && frame.call == *call.borrow() && frame.call > 0 {
            *call.borrow_mut() = 0;
            *told.borrow_mut() = Some(match frame.body {
                Body::Reply(reply) => Ok(reply),
                Body::Failure(failure) => Err(failure),
                other => panic!("{other:?}"),
            });
            let pong = Reply::Pong(Bytes::from_static(b"ping"));
            return vec![Frame { call: frame.call, body: Body::Reply(pong) }];
        }
        vec![frame]
    }));
    // The answer proves that the connection is still served.
    world.done(device, |client, now| client.ping(now));
    world.liar = None;
    world.done(device, |client, now| client.ping(now));
    let answer = answer.borrow_mut().take();
    answer.expect("answered")
}

#[test]
fn who_is_no_member_neither_submits_nor_reads_nor_commits() {
    let (mut world, channel) = three(20);
    let eve = world.register("eve");
    let stolen = Rc::new(RefCell::new((None, None)));
    let seen = stolen.clone();
    lie(&mut world, ALICE, true, move |frame| {
        match &frame.body {
            Body::Request(Request::Submit(submit)) => seen.borrow_mut().0 = Some(submit.clone()),
            Body::Request(Request::Commit(bundle)) => seen.borrow_mut().1 = Some(bundle.clone()),
            _ => {}
        }
        vec![frame]
    });
    said(&mut world, ALICE, channel, "for members");
    world.done(ALICE, |client, now| client.update(now, channel));
    let (submit, bundle) = stolen.borrow().clone();
    let (mut submit, mut bundle) = (submit.unwrap(), bundle.unwrap());
    (submit.message, bundle.message) = (MessageId([1; 16]), MessageId([2; 16]));
    let requests = [
        Request::Submit(submit),
        Request::Commit(bundle),
        Request::Fetch { channel, after: 0, limit: 10, wait_ms: 0 },
        Request::Subscribe { channel, after: 0 },
        Request::ChannelInfo { channel },
        Request::GroupInfoFetch { channel },
        Request::Ack { channel, seq: 1 },
    ];
    for request in requests {
        let name = format!("{request:?}");
        let refused = ask_as(&mut world, eve, request).expect_err(&name);
        assert_eq!(refused.code, ErrorCode::NotMember, "{name}");
    }
    world.settle();
    assert_eq!(world.bodies(BOB), ["for members"]);
}

#[test]
fn a_commit_that_lies_or_is_broken_is_refused_by_the_server_and_the_group_goes_on() {
    let (mut world, channel) = three(21);
    // Wrongly signed, spoiled, with garbage behind, cut short. The two macs at the end are the members' to check.
    let spoils: [fn(&mut Vec<u8>); 4] = [
        |bytes| {
            let signature = bytes.len() - 100;
            bytes[signature] ^= 1;
        },
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        },
        |bytes| bytes.push(0),
        |bytes| bytes.truncate(bytes.len() / 3),
    ];
    for spoil in spoils {
        lie(&mut world, BOB, true, move |mut frame| {
            if let Body::Request(Request::Commit(bundle)) = &mut frame.body
                && let Part::Inline(bytes) = &mut bundle.commit
            {
                let mut spoiled = bytes.to_vec();
                spoil(&mut spoiled);
                *bytes = spoiled.into();
            }
            vec![frame]
        });
        let failed = fails(&mut world, BOB, |client, now| client.update(now, channel));
        let expected = [ErrorCode::CommitInvalid, ErrorCode::BadRequest];
        assert!(expected.contains(&code(&failed)), "{failed:?}");
        world.liar = None;
        world.done(BOB, |client, now| client.update(now, channel));
        world.settle();
        agree(&world, channel, &[ALICE, BOB, CAROL]);
    }
}

#[test]
fn a_welcome_or_group_info_that_lies_is_refused() {
    let (mut world, channel) = three(22);
    world.register("dave");
    for part in 0..2 {
        lie(&mut world, ALICE, true, move |mut frame| {
            if let Body::Request(Request::Commit(bundle)) = &mut frame.body {
                match (part, &mut bundle.welcome) {
                    (0, _) => {
                        let mut bytes = bundle.group_info.to_vec();
                        let last = bytes.len() - 9;
                        bytes[last] ^= 1;
                        bundle.group_info = bytes.into();
                    }
                    (_, welcome) => *welcome = None,
                }
            }
            vec![frame]
        });
        let failed = fails(&mut world, ALICE, |client, now| client.invite(now, channel, "dave"));
        assert_eq!(code(&failed), ErrorCode::CommitInvalid, "part {part}");
    }
    world.liar = None;
    world.done(ALICE, |client, now| client.invite(now, channel, "dave"));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL, 3]);
}

#[test]
fn a_message_of_a_stale_epoch_is_refused_and_written_anew() {
    let (mut world, channel) = three(23);
    // Alice does not hear of three commits, and writes.
    let deaf = Rc::new(RefCell::new(true));
    let hears = deaf.clone();
    let held = Rc::new(RefCell::new(Vec::new()));
    let keep = held.clone();
    let stale = Rc::new(RefCell::new(0));
    let counted = stale.clone();
    lie(&mut world, ALICE, false, move |frame| {
        if let Body::Failure(failure) = &frame.body
            && failure.code == ErrorCode::StaleEpoch
        {
            *counted.borrow_mut() += 1;
        }
        match &frame.body {
            Body::Push(Push::Entries(_)) if *hears.borrow() => {
                keep.borrow_mut().push(frame);
                vec![]
            }
            _ => {
                let mut frames = vec![];
                if !*hears.borrow() {
                    frames.append(&mut keep.borrow_mut());
                }
                frames.push(frame);
                frames
            }
        }
    });
    for _ in 0..3 {
        world.done(BOB, |client, now| client.update(now, channel));
    }
    let ticket = say(&mut world, ALICE, channel, "from long ago");
    world.run();
    assert_eq!(*stale.borrow(), 1);
    *deaf.borrow_mut() = false;
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Sent(_)));
    world.settle();
    assert_eq!(world.bodies(BOB), ["from long ago"]);
    assert_eq!(world.bodies(CAROL), ["from long ago"]);
}

/// One device of an account has another's key package: it is named, and the rest of the account comes in.
#[test]
fn a_device_with_another_s_package_is_named_and_the_rest_comes_in() {
    let mut world = World::new(Rules::new(28));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let tablet = world.login("bob");
    world.settle();
    let channel = group_of(&mut world, alice, &[]);
    let wrong = world.client(tablet).whoami().unwrap().1;
    lie_reply(&mut world, alice, move |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            let other = claimed.iter().find(|claim| claim.device != wrong.device).cloned();
            let own = claimed.iter_mut().find(|claim| claim.device == wrong.device);
            if let (Some(own), Some(other)) = (own, other) {
                own.package = other.package;
            }
        }
    });
    world.done(alice, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    let named = |event: &Event| matches!(event, Event::NotAdded { device, .. } if *device == wrong);
    assert!(saw(&world, alice, named), "{:?}", world.devices[alice].log);
    world.liar = None;
    assert!(world.groups(bob).iter().any(|group| group.channel == channel));
}

/// The own account's new device is handed over with somebody else's package: it is not added by that, and it is told
/// once.
#[test]
fn a_new_device_of_ones_own_with_another_s_package_is_told_once() {
    let (mut world, channel) = three(29);
    let kept = Rc::new(RefCell::new(None));
    let seen = kept.clone();
    lie_reply(&mut world, ALICE, move |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            let mut kept = seen.borrow_mut();
            match kept.clone() {
                None => *kept = claimed[0].package.clone(),
                other => claimed.iter_mut().for_each(|claim| claim.package = other.clone()),
            }
        }
    });
    world.register("dave");
    world.done(ALICE, |client, now| client.invite(now, channel, "dave"));
    // Bob's and carol's devices leave it to alice's account.
    let tablet = world.login("alice");
    let device = world.client(tablet).whoami().unwrap().1;
    world.pass(Duration::from_secs(60));
    let named =
        |event: &&Event| matches!(event, Event::NotAdded { device: of, .. } if *of == device);
    assert_eq!(world.devices[ALICE].log.iter().filter(named).count(), 1);
    assert!(!world.groups(tablet).iter().any(|group| group.channel == channel));
    honest(&mut world, &[ALICE]);
    world.pass(Duration::from_secs(3_600));
    assert!(world.group(tablet, channel).member);
}
