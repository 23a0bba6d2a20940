use std::time::Duration;

use bytes::Bytes;

use super::device::*;
use super::harness::*;
use crate::error::{CloseCode, ErrorCode, Fatal};
use crate::id::{ChannelId, Digest};
use crate::io::{
    Binding, BindingKind, Gone, Input, LinkId, LinkRole, Links, OpId, Output, Transport, WakeReason,
};
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::StoreReply;
use crate::wire::frame::encode;
use crate::wire::frame::tests::one_of_each;
use crate::wire::message::{Body, Frame, Push, Reply, Request};

#[test]
fn answers_ping_health_and_hello_to_strangers() {
    let mut world = World::new();
    let link = world.connect();
    let payload = Bytes::from_static(b"are you there");
    assert_eq!(world.call(link, ping()).unwrap(), Reply::Pong(payload));
    match world.call(link, Request::Health).unwrap() {
        Reply::Health { healthy, time, .. } => assert_eq!((healthy, time), (true, START)),
        other => panic!("{other:?}"),
    }
    let (nonce, server) = hello(&mut world, link);
    assert_eq!(server, world.server.id());
    assert_eq!(hello(&mut world, link).0, nonce, "one nonce per connection");
    let other = world.connect();
    assert_ne!(hello(&mut world, other).0, nonce);
}

#[test]
fn calls_are_pipelined_and_answered_on_their_link() {
    let mut world = World::new();
    let conn = world.dial(World::transport(Links::Many));
    let calls = world.open(conn, LinkRole::Calls, CREDIT);
    let bulk = world.open(conn, LinkRole::Bulk, CREDIT);
    let asked: Vec<_> = (0..100).map(|_| world.ask(calls, ping())).collect();
    let other = world.ask(bulk, ping());
    world.settle();
    for call in asked {
        assert!(matches!(world.answer(calls, call), Some(Ok(Reply::Pong(_)))));
    }
    assert!(matches!(world.answer(bulk, other), Some(Ok(Reply::Pong(_)))));
    assert!(world.ends[&calls].inbox.is_empty());
}

#[test]
fn a_link_that_its_client_has_finished_ends_after_its_replies() {
    let mut world = World::new();
    let conn = world.dial(World::transport(Links::Many));
    let calls = world.open(conn, LinkRole::Calls, CREDIT);
    let bulk = world.open(conn, LinkRole::Bulk, 0);
    let call = world.ask(bulk, ping());
    world.settle();
    world.input(Input::Closed(bulk, Gone::Finished));
    world.settle();
    assert!(!world.ends[&bulk].finished);
    world.input(Input::Writable(bulk, CREDIT));
    world.settle();
    assert!(world.answer(bulk, call).is_some());
    assert!(world.ends[&bulk].finished);
    assert!(world.call(calls, ping()).is_ok());

    // The only link of a connection: the connection follows, once the transport had its time.
    let link = world.connect();
    world.input(Input::Closed(link, Gone::Finished));
    world.settle();
    assert!(world.ends[&link].finished);
    assert_eq!(world.close_code(link), None);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.close_code(link), Some(CloseCode::DONE));
}

fn closes(role: LinkRole, links: Links, body: Body) -> Option<CloseCode> {
    let mut world = World::new();
    let conn = world.dial(World::transport(links));
    let link = world.open(conn, role, CREDIT);
    let call = u32::from(!matches!(body, Body::Open(_) | Body::Push(_)));
    world.send(link, &Frame { call, body });
    world.settle();
    let code = world.close_code(link);
    if code.is_some() {
        assert_eq!(world.audit.last().unwrap().kind, AuditKind::PeerFault);
        assert_eq!(world.server.connections(), 0);
    }
    code
}

#[test]
fn regression_24_frames_at_the_wrong_time_close_the_connection() {
    let unexpected = Some(CloseCode::UNEXPECTED);
    let (one, many) = (Links::One, Links::Many);
    assert_eq!(closes(LinkRole::All, one, Body::Request(ping())), None);
    assert_eq!(closes(LinkRole::All, one, Body::Open(LinkRole::All)), unexpected);
    assert_eq!(closes(LinkRole::All, one, Body::Reply(Reply::Done)), unexpected);
    let failure = Body::Failure(ErrorCode::Busy.into());
    assert_eq!(closes(LinkRole::Calls, many, failure), unexpected);
    assert_eq!(closes(LinkRole::Calls, many, Body::Push(Push::Draining)), unexpected);
    assert_eq!(closes(LinkRole::Pushes, many, Body::Request(ping())), unexpected);
    // An ack may come there; without a session it is refused like any call.
    let ack = Request::Ack { channel: ChannelId([1; 16]), seq: 1 };
    assert_eq!(closes(LinkRole::Pushes, many, Body::Request(ack)), None);
    for (role, links) in [
        (LinkRole::Calls, one),
        (LinkRole::Pushes, one),
        (LinkRole::Bulk, one),
        (LinkRole::All, many),
    ] {
        let mut world = World::new();
        let conn = world.dial(World::transport(links));
        let link = world.open(conn, role, CREDIT);
        assert_eq!(world.close_code(link), unexpected);
    }
}

/// A valid message of a kind that was not expected stopped a server (openmls delivery service, PR 2165): each kind of
/// frame at each state of a link. Who else is there is served, and so is the next frame, if the connection still
/// stands.
#[test]
fn regression_24_every_kind_of_frame_at_every_state_is_lived_with() {
    type Link = fn(&mut World, &mut Device) -> LinkId;
    let states: [(&str, Link); 8] = [
        ("no role", |world, _| {
            let conn = world.dial(World::transport(Links::One));
            world.raw_link(conn, CREDIT)
        }),
        ("a stranger's", |world, _| world.connect()),
        ("a stranger's, for pushes", |world, _| {
            let conn = world.dial(World::transport(Links::Many));
            world.open(conn, LinkRole::Pushes, CREDIT)
        }),
        ("a stranger's, for bulk", |world, _| {
            let conn = world.dial(World::transport(Links::Many));
            world.open(conn, LinkRole::Bulk, CREDIT)
        }),
        ("a login begun", |world, _| {
            let link = world.connect();
            let kind =
                |frame: &Frame| matches!(frame.body, Body::Request(Request::LoginStart { .. }));
            let login = one_of_each().into_iter().find(|(_, frame)| kind(frame)).unwrap().1;
            world.send(link, &Frame { call: 1, ..login });
            world.settle();
            link
        }),
        ("a session's", |_, device| device.link),
        ("logged out", |world, device| {
            world.call(device.link, Request::Logout).unwrap();
            device.link
        }),
        ("drained", |world, device| {
            world.server.drain(world.now);
            world.settle();
            device.link
        }),
    ];
    for (name, frame) in one_of_each() {
        for (state, link) in &states {
            let mut world = World::new();
            let mut alice = Device::new(&mut world, "alice");
            let bob = Device::new(&mut world, "bob");
            let link = link(&mut world, &mut alice);
            world.send(link, &frame);
            world.settle();
            if world.close_code(link).is_none() && *state == "a session's" {
                assert!(world.call(link, ping()).is_ok(), "{name}, {state}");
            }
            if *state != "drained" {
                assert!(world.call(bob.link, ping()).is_ok(), "{name}, {state}");
            }
        }
    }
}

#[test]
fn a_link_begins_with_its_role_and_pushes_have_one() {
    let mut world = World::new();
    let conn = world.dial(World::transport(Links::Many));
    let link = world.raw_link(conn, CREDIT);
    world.ask(link, ping());
    world.settle();
    assert_eq!(world.close_code(link), Some(CloseCode::UNEXPECTED));

    let conn = world.dial(World::transport(Links::Many));
    world.open(conn, LinkRole::Pushes, CREDIT);
    let link = world.open(conn, LinkRole::Pushes, CREDIT);
    assert_eq!(world.close_code(link), Some(CloseCode::UNEXPECTED));
}

#[test]
fn a_call_id_in_use_closes_the_connection() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    world.disk = Disk::Waits;
    let request = Request::KeyPackageStatus { suite: None };
    for _ in 0..2 {
        world.send(alice.link, &Frame { call: 77, body: Body::Request(request.clone()) });
    }
    world.settle();
    assert_eq!(world.close_code(alice.link), Some(CloseCode::UNEXPECTED));
}

/// The second call is not counted: the first one's answer, come before the connection is closed, takes off what was put
/// on.
#[test]
fn a_heavier_call_under_an_id_in_use_is_not_counted() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    // Refused by the job, and so answered at once.
    let packages = vec![Bytes::from_static(b"none")];
    let upload = Request::KeyPackageUpload { packages, last_resort: None };
    let heavier = Request::BlobGet { hash: Digest([1; 32]), offset: 0 };
    let mut both = Vec::new();
    for request in [upload, heavier] {
        encode(&Frame { call: 77, body: Body::Request(request) }, &mut both);
    }
    world.input(Input::Bytes(alice.link, &both));
    let (job, what) = loop {
        match world.server.poll(&mut Vec::new()) {
            Output::Compute(job, what) => break (job, what),
            Output::Idle { .. } => panic!("no job"),
            _ => {}
        }
    };
    world.input(Input::Computed(job, what.run()));
    world.settle();
    assert_eq!(world.close_code(alice.link), Some(CloseCode::UNEXPECTED));
}

#[test]
fn malformed_bytes_close_the_connection_with_their_code() {
    let mut good = Vec::new();
    encode(&Frame { call: 1, body: Body::Request(ping()) }, &mut good);
    let huge = [0u32.to_le_bytes(), 0x0100_0000u32.to_le_bytes()].concat();
    let many = [100u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    for (bytes, code) in [
        (huge, CloseCode::TOO_LARGE),
        (many, CloseCode::MALFORMED),
        (vec![0; 64], CloseCode::MALFORMED),
    ] {
        let mut world = World::new();
        let link = world.connect();
        world.send_bytes(link, &good);
        world.send_bytes(link, &bytes);
        world.settle();
        // What came before was answered.
        assert!(matches!(world.answer(link, 1), Some(Ok(Reply::Pong(_)))));
        assert_eq!(world.close_code(link), Some(code));
    }
    for bit in 0..good.len() * 8 {
        let mut world = World::new();
        let link = world.connect();
        let mut bent = good.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        world.send_bytes(link, &bent);
        world.settle();
    }
}

#[test]
fn strangers_may_send_small_frames_only() {
    let mut world = World::new();
    let link = world.connect();
    let chunk = Bytes::from(vec![1; 8 * 1024]);
    let put = Request::BlobPut { hash: Digest::of(&[&chunk]), total: 8192, offset: 0, chunk };
    world.ask(link, put.clone());
    world.settle();
    assert_eq!(world.close_code(link), Some(CloseCode::TOO_LARGE));
    let alice = Device::new(&mut world, "alice");
    assert_eq!(world.call(alice.link, put).unwrap(), Reply::BlobPut { received: 8192 });
}

#[test]
fn calls_need_a_session() {
    let mut world = World::new();
    let mut alice = Device::draft(&mut world, "alice");
    alice.register(&mut world).unwrap();
    let channel = ChannelId([1; 16]);
    let account = alice.id();
    let requests = [
        Request::Logout,
        Request::DeviceList { account },
        alice.revocation(alice.sender().device, &world),
        Request::AccountLookup { username: username("alice") },
        Request::AccountDelete { proof: [0; 64] },
        Request::KeyPackageUpload { packages: vec![], last_resort: None },
        Request::KeyPackageStatus { suite: None },
        Request::KeyPackageFetch { account, suite: crate::mls::suite::Suite::Hybrid, device: None },
        Request::ChannelInfo { channel },
        Request::ChannelList { after: None },
        Request::Fetch { channel, after: 0, limit: 1, wait_ms: 0 },
        Request::Subscribe { channel, after: 0 },
        Request::Unsubscribe { channel },
        Request::Ack { channel, seq: 0 },
        Request::GroupInfoFetch { channel },
        Request::BlobGet { hash: Digest([1; 32]), offset: 0 },
        alice.device_request(),
    ];
    for request in &requests {
        assert_eq!(world.fails(alice.link, request.clone()), ErrorCode::NotLoggedIn);
    }
    alice.log_in(&mut world, "secret").unwrap();
    let (device, others) = requests.split_last().unwrap();
    for request in others {
        assert_eq!(world.fails(alice.link, request.clone()), ErrorCode::NotLoggedIn);
    }
    assert_eq!(world.call(alice.link, device.clone()).unwrap(), Reply::Done);
}

#[test]
fn connections_links_and_transports_over_a_limit_are_refused() {
    let mut world = World::with(|config| config.connections = 2);
    let kept = [world.connect(), world.connect()];
    let conn = world.dial(World::transport(Links::One));
    let link = world.raw_link(conn, CREDIT);
    assert_eq!(world.close_code(link), Some(CloseCode::FULL));
    assert_eq!(world.server.connections(), 2);
    world.hang_up(kept[0]);
    let link = world.connect();
    assert!(world.call(link, ping()).is_ok());

    let mut world = World::new();
    let conn = world.dial(World::transport(Links::Many));
    let links: Vec<_> = (0..limits::LINKS_PER_CONNECTION)
        .map(|_| world.open(conn, LinkRole::Calls, CREDIT))
        .collect();
    assert!(world.call(links[17], ping()).is_ok());
    let link = world.raw_link(conn, CREDIT);
    assert_eq!(world.close_code(link), Some(CloseCode::OVER_LIMIT));
    let link = world.connect();
    let second = world.raw_link(world.conn(link), CREDIT);
    assert_eq!(world.close_code(second), Some(CloseCode::OVER_LIMIT));

    let plain = Transport {
        binding: Binding { kind: BindingKind::InsecurePlain, value: [0; 32] },
        ..World::transport(Links::One)
    };
    let mut world = World::new();
    let conn = world.dial(plain.clone());
    world.settle();
    assert_eq!(world.closed.get(&conn), Some(&CloseCode::UNEXPECTED));
    let mut world = World::with(|config| config.insecure_plain = true);
    let conn = world.dial(plain);
    let link = world.open(conn, LinkRole::All, CREDIT);
    assert!(world.call(link, ping()).is_ok());
}

#[test]
fn regression_04_calls_in_flight_are_capped_and_the_rest_waits_unread() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    world.disk = Disk::Waits;
    let most = limits::CALLS_IN_FLIGHT;
    let calls: Vec<_> = (0..most + 50)
        .map(|_| world.ask(alice.link, Request::KeyPackageStatus { suite: None }))
        .collect();
    world.settle();
    assert_eq!(world.waiting.len(), most);
    assert!(!world.ends[&alice.link].wanted, "nothing more is read");
    world.disk = Disk::Works;
    world.settle();
    for call in calls {
        assert!(matches!(world.answer(alice.link, call), Some(Ok(_))));
    }
    assert!(world.ends[&alice.link].wanted);
}

#[test]
fn store_operations_are_capped_over_all_connections() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let per_link = limits::CALLS_IN_FLIGHT;
    let links: Vec<_> =
        (0..=limits::STORE_OPS / per_link).map(|_| alice.reconnect(&mut world)).collect();
    world.disk = Disk::Waits;
    for link in &links {
        for _ in 0..per_link {
            world.ask(*link, Request::KeyPackageStatus { suite: None });
        }
    }
    world.settle();
    assert_eq!(world.waiting.len(), limits::STORE_OPS);
    world.disk = Disk::Works;
    world.settle();
    for link in links {
        assert_eq!(world.ends[&link].inbox.len(), per_link);
        assert!(world.ends[&link].wanted);
    }
}

#[test]
fn jobs_are_capped_and_calls_that_need_one_refused() {
    let mut world = World::new();
    world.jobs_wait = true;
    let request = Bytes::copy_from_slice(&[0; 32]);
    let mut links = Vec::new();
    // A stranger has a few calls in flight only.
    let per_link = 16;
    for source in 0..=(limits::JOBS / per_link) as u8 {
        let transport = Transport { peer: vec![source], ..World::transport(Links::One) };
        let conn = world.dial(transport);
        let link = world.open(conn, LinkRole::All, CREDIT);
        hello(&mut world, link);
        for _ in 0..per_link + 4 {
            let username = username("alice");
            world.ask(link, Request::RegisterStart { username, request: request.clone() });
        }
        links.push(link);
    }
    world.settle();
    assert_eq!(world.jobs.len(), limits::JOBS);
    let busy: Vec<_> = links
        .iter()
        .flat_map(|link| world.ends[link].inbox.iter())
        .filter_map(|frame| match &frame.body {
            Body::Failure(failure) => Some((failure.code, failure.retry_after_ms > 0)),
            _ => None,
        })
        .collect();
    // On the last link, where each refusal made room for the next call.
    assert_eq!(busy.len(), per_link + 4);
    assert!(busy.iter().all(|failure| *failure == (ErrorCode::Busy, true)));
    assert!(world.call(*links.last().unwrap(), ping()).is_ok());
    assert!(!world.ends[&links[0]].wanted);
}

#[test]
fn nothing_is_sent_beyond_credit_and_a_full_backlog_stops_reading() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let chunk = Bytes::from(vec![7; limits::BLOB_CHUNK]);
    let hash = Digest::of(&[&chunk]);
    let total = chunk.len() as u64;
    world.call(alice.link, Request::BlobPut { hash, total, offset: 0, chunk }).unwrap();

    let mut slow = Device { link: LinkId(0), ..alice };
    let conn = world.dial(World::transport(Links::One));
    slow.link = world.open(conn, LinkRole::All, 600);
    let request = slow.resume_request(&mut world, 1);
    world.ask(slow.link, request);
    world.settle();
    let received = world.ends[&slow.link].received;
    assert!(received <= 600);
    let calls: Vec<_> =
        (0..100).map(|_| world.ask(slow.link, Request::BlobGet { hash, offset: 0 })).collect();
    world.input(Input::Writable(slow.link, 600 - received));
    world.settle();
    assert!(world.ends[&slow.link].received <= 1_200);
    let reads = limits::LINK_BACKLOG_BYTES / limits::BLOB_CHUNK;
    let served = world.executed.len();
    assert!(!world.ends[&slow.link].wanted, "reading stops");
    // Credit in small pieces is spent to the byte, and frees the rest in turn.
    let mut granted = 1_200;
    while calls.iter().any(|call| world.answer(slow.link, *call).is_some()) || granted < 30_000_000
    {
        granted += 100_000;
        world.input(Input::Writable(slow.link, 100_000));
        world.settle();
        assert!(world.ends[&slow.link].received <= granted);
    }
    assert!(world.executed.len() > served);
    assert!(world.executed.len() - served >= 100 - reads - 1);
    assert!(world.ends[&slow.link].wanted);
}

#[test]
fn many_links_hold_no_more_than_two_full_ones() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let chunk = Bytes::from(vec![7; limits::BLOB_CHUNK]);
    let hash = Digest::of(&[&chunk]);
    let total = chunk.len() as u64;
    world.call(alice.link, Request::BlobPut { hash, total, offset: 0, chunk }).unwrap();
    let conn = world.dial(World::transport(Links::Many));
    alice.link = world.open(conn, LinkRole::Calls, CREDIT);
    alice.resume(&mut world).unwrap();
    let links: Vec<_> = (0..17).map(|_| world.open(conn, LinkRole::Bulk, 0)).collect();
    for link in &links {
        for _ in 0..20 {
            world.ask(*link, Request::BlobGet { hash, offset: 0 });
        }
    }
    world.settle();
    let held: usize = links.iter().map(|link| world.server.links[link].backlog()).sum();
    assert!(held >= limits::CONNECTION_BACKLOG_BYTES - limits::BLOB_CHUNK);
    assert!(held <= limits::CONNECTION_BACKLOG_BYTES + 17 * 2 * limits::BLOB_CHUNK);
    assert!(world.call(alice.link, ping()).is_ok());
    for link in &links {
        world.input(Input::Writable(*link, CREDIT));
    }
    world.settle();
    for link in links {
        assert_eq!(world.ends[&link].inbox.len(), 20);
    }
}

#[test]
fn a_runtime_that_breaks_the_contract_is_told() {
    let mut world = World::new();
    let now = world.now;
    let conn = world.dial(World::transport(Links::One));
    let link = world.open(conn, LinkRole::All, CREDIT);
    let misuse = |result| assert!(matches!(result, Err(Fatal::Misuse(_))));
    misuse(world.server.handle(now, Input::Connected(conn, World::transport(Links::One))));
    misuse(world.server.handle(now, Input::Accepted(conn, link)));
    misuse(world.server.handle(now, Input::Bytes(link, &vec![0; limits::READ_CHUNK + 1])));
    misuse(world.server.handle(now, Input::Stored(OpId(999), Ok(StoreReply::Done))));
    misuse(world.server.handle(now, Input::Persisted(crate::io::BatchId(1), Ok(()))));
    assert!(world.server.handle(now, Input::Bytes(link, &[])).is_ok());
    let mut buffer = Vec::new();
    while !matches!(world.server.poll(&mut buffer), Output::Read(_)) {}
    assert!(world.server.handle(now, Input::Bytes(link, &[1])).is_ok());
    misuse(world.server.handle(now, Input::Bytes(link, &[1])));
    // What comes late for something gone is no misuse.
    assert!(world.server.handle(now, Input::Bytes(LinkId(999), &[1])).is_ok());
    assert!(world.server.handle(now, Input::Writable(LinkId(999), 1)).is_ok());
}

#[test]
fn idle_names_the_earliest_deadline_and_a_clock_set_back_changes_nothing() {
    let mut world = World::new();
    world.settle();
    let start = world.now.mono;
    assert_eq!(world.idle, (Some(start + Duration::from_secs(60)), WakeReason::Sweep));
    let link = world.connect();
    let handshake = Some(start + limits::HANDSHAKE_TIME);
    assert_eq!(world.idle, (handshake, WakeReason::Handshake));
    world.now.mono = Duration::ZERO;
    world.input(Input::Tick);
    world.settle();
    assert_eq!(world.idle, (handshake, WakeReason::Handshake));
    assert!(world.call(link, ping()).is_ok());
}
