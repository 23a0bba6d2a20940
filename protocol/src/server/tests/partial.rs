//! Frames that arrive in part and stay so.

use bytes::Bytes;

use super::device::*;
use super::harness::*;
use crate::error::CloseCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use crate::io::{ConnId, LinkId, LinkRole, Links};
use crate::limits;
use crate::server::audit::AuditKind;
use crate::wire::frame::encode;
use crate::wire::message::{Body, CommitBundle, Frame, Part, Request, Token};

/// A call of about that many bytes that any session may make.
fn large(call: u32, bytes: usize) -> Vec<u8> {
    let payload = Bytes::from(vec![7; bytes]);
    let request = Request::Commit(CommitBundle {
        channel: ChannelId([1; 16]),
        generation: 1,
        epoch: 0,
        message: MessageId([1; 16]),
        commit: Part::Inline(payload),
        welcome: None,
        group_info: Bytes::from_static(b"info"),
    });
    let mut out = Vec::new();
    encode(&Frame { call, body: Body::Request(request) }, &mut out);
    out
}

fn gathered(world: &World) -> usize {
    world.server.links.values().map(|link| link.gathered).sum()
}

/// A proven session over many links, of which these are for bulk.
fn session(world: &mut World, alice: &mut Device, bulk: usize) -> Vec<LinkId> {
    let conn = world.dial(World::transport(Links::Many));
    alice.link = world.open(conn, LinkRole::Calls, CREDIT);
    alice.resume(world).unwrap();
    (0..bulk).map(|_| world.open(conn, LinkRole::Bulk, CREDIT)).collect()
}

#[test]
fn large_frames_take_a_session_that_is_proven() {
    let mut world = World::new();
    let chunk = Bytes::from(vec![1; 8 * 1024]);
    let put = Request::BlobPut { hash: Digest::of(&[&chunk]), total: 8192, offset: 0, chunk };
    let close = |world: &mut World, link| {
        world.ask(link, put.clone());
        world.settle();
        world.close_code(link)
    };
    let stranger = world.connect();
    assert_eq!(close(&mut world, stranger), Some(CloseCode::TOO_LARGE));
    // The password is right, the device not yet proven.
    let mut alice = Device::draft(&mut world, "alice");
    alice.register(&mut world).unwrap();
    alice.log_in(&mut world, "secret").unwrap();
    assert_eq!(close(&mut world, alice.link), Some(CloseCode::TOO_LARGE));
    alice.link = world.connect();
    alice.log_in(&mut world, "secret").unwrap();
    alice.register_device(&mut world).unwrap();
    alice.resume(&mut world).unwrap();
    assert_eq!(close(&mut world, alice.link), None);
    // The claim alone is enough: no byte of the frame itself has come.
    let stranger = world.connect();
    world.send_bytes(stranger, &large(1, 5_000)[..8]);
    world.settle();
    assert_eq!(world.close_code(stranger), Some(CloseCode::TOO_LARGE));
}

/// Many links, each with calls behind a store that does not answer: what is kept of them is bounded.
#[test]
fn strangers_cannot_make_a_server_gather_much() {
    let mut world = World::new();
    let conn = world.dial(World::transport(Links::Many));
    let link = world.open(conn, LinkRole::Calls, CREDIT);
    hello(&mut world, link);
    let mut calls = Vec::new();
    for call in 1..1_000 {
        let refresh = Request::Refresh {
            token: Token(vec![0x81; 33].into()),
            sender: Sender { account: AccountId([1; 32]), device: DeviceId([1; 16]) },
            signature: [1; 64],
        };
        encode(&Frame { call, body: Body::Request(refresh) }, &mut calls);
    }
    assert!(calls.len() > 2 * limits::READ_CHUNK);
    world.disk = Disk::Waits;
    let mut most = 0;
    for _ in 0..limits::LINKS_PER_CONNECTION {
        if world.closed.contains_key(&conn) {
            break;
        }
        let link = world.open(conn, LinkRole::Calls, CREDIT);
        world.send_bytes(link, &calls);
        world.settle();
        most = most.max(gathered(&world));
    }
    assert_eq!(world.closed.get(&conn), Some(&CloseCode::OVER_LIMIT));
    assert!(most > limits::READ_CHUNK / 2 && most <= 2 * limits::READ_CHUNK, "{most}");
    assert_eq!((gathered(&world), world.server.gathered), (0, 0));
}

#[test]
fn a_connection_gathers_no_more_than_its_share_and_all_frames_arrive() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let links = session(&mut world, &mut alice, 17);
    let frame = large(1, 3 * 1024 * 1024);
    let (start, end) = frame.split_at(frame.len() - 8);
    for link in &links {
        world.send_bytes(*link, start);
    }
    world.settle();
    let most = limits::CONNECTION_BACKLOG_BYTES + limits::FRAME_BYTES;
    assert_eq!(gathered(&world), world.server.gathered);
    assert!((limits::CONNECTION_BACKLOG_BYTES..most).contains(&gathered(&world)));
    assert!(links.iter().any(|link| !world.ends[link].wanted));
    // What is small goes on.
    assert!(world.call(alice.link, ping()).is_ok());
    for link in links.iter().rev() {
        world.send_bytes(*link, end);
        world.settle();
    }
    for link in &links {
        assert!(world.answer(*link, 1).unwrap().is_err(), "no such channel");
        assert!(world.ends[link].wanted);
    }
    assert_eq!((gathered(&world), world.server.gathered), (0, 0));
}

/// The other links go on when the one that was let through is given up.
#[test]
fn a_link_that_breaks_off_makes_room() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let links = session(&mut world, &mut alice, 10);
    let frame = large(1, 3 * 1024 * 1024);
    for link in &links {
        world.send_bytes(*link, &frame[..frame.len() - 8]);
    }
    world.settle();
    for link in &links[..9] {
        world.input(crate::io::Input::Closed(*link, crate::io::Gone::Closed(CloseCode::DONE)));
        world.settle();
    }
    world.send_bytes(links[9], &frame[frame.len() - 8..]);
    world.settle();
    assert!(world.answer(links[9], 1).unwrap().is_err());
    assert_eq!((gathered(&world), world.server.gathered), (0, 0));
}

#[test]
fn over_the_limit_for_all_the_greediest_goes() {
    let mut world = World::with(|config| config.gathered_bytes = 3 * 1024 * 1024);
    let mut devices: Vec<_> =
        ["alice", "bob", "carol"].map(|name| Device::new(&mut world, name)).into();
    let frame = large(1, 2 * 1024 * 1024);
    let parts = [1_000_000, 1_900_000, 500_000];
    let mut conns: Vec<ConnId> = Vec::new();
    for (device, part) in devices.iter_mut().zip(parts) {
        let link = session(&mut world, device, 1)[0];
        world.send_bytes(link, &frame[..part]);
        world.settle();
        conns.push(world.conn(link));
    }
    assert_eq!(world.closed.get(&conns[1]), Some(&CloseCode::FULL));
    assert_eq!(world.audit.iter().filter(|event| event.kind == AuditKind::Limit).count(), 1);
    for conn in [conns[0], conns[2]] {
        assert!(!world.closed.contains_key(&conn));
    }
    assert_eq!(gathered(&world), 1_500_000);
    assert_eq!(world.server.gathered, 1_500_000);
    assert!(world.call(devices[0].link, ping()).is_ok());
}
