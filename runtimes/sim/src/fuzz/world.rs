//! Operations on a whole world, in which the server and the devices are honest and everything else goes wrong.

use std::sync::OnceLock;
use std::time::Duration;

use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::error::StoreFaultKind;
use qpc_protocol::io::Links;
use qpc_protocol::mls::suite::Suite;

use super::act::{act, span};
use super::script::Script;
use crate::insecure;
use crate::world::{Remains, Rules, World};

/// Most things done in one execution.
const OPS: usize = 48;
const NAMES: [&str; 3] = ["alice", "bob", "carol"];

fn rules() -> Rules {
    Rules { backend: insecure::quick(), ..Rules::new(11) }
}

/// Three in a group.
fn remains() -> &'static Remains {
    static MADE: OnceLock<Remains> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut world = World::new(rules());
        for name in NAMES {
            world.register(name);
        }
        let made = world.done(0, |c, now| c.create_group(now, "group", Suite::Classical));
        let Outcome::Group(channel) = made else { panic!("{made:?}") };
        for name in &NAMES[1..] {
            world.done(0, |client, now| client.invite(now, channel, name));
        }
        world.settle();
        world.remains()
    })
}

/// The bytes: the world's rules, then what people do, what breaks, and when. In the end nothing breaks any more, and all
/// come to rest.
pub(super) fn world(data: &[u8]) {
    let mut script = Script::new(data);
    let links = script.of(&[Links::Many, Links::One]).unwrap_or(Links::Many);
    let split = script.byte() % 2 == 1;
    let mut world = World::from(Rules { links, split, ..rules() }, remains());
    let mut senders = Vec::new();
    for device in 0..NAMES.len() {
        world.start(device);
        senders.extend(world.client(device).whoami().map(|(_, sender, _)| sender));
    }
    for _ in 0..OPS {
        if script.is_done() {
            break;
        }
        let device = script.pick(NAMES.len());
        let now = world.now;
        match script.pick(16) {
            0..8 => {
                if let Some(client) = world.devices[device].client.as_mut() {
                    act(&senders, client, now, &mut script);
                }
            }
            what => fault(&mut world, device, what, &mut script),
        }
        if script.byte() < 192 {
            world.run();
        }
    }
    calm(&mut world);
    for device in &world.devices {
        let bad = device
            .log
            .iter()
            .find(|event| matches!(event, Event::ForkDetected { .. } | Event::ServerFault { .. }));
        assert!(bad.is_none(), "nobody lied: {bad:?}");
    }
}

fn fault(world: &mut World, device: usize, what: usize, script: &mut Script) {
    match what {
        8 => world.cut(device),
        9 => world.crash(device),
        10 if world.devices[device].client.is_none() => world.start(device),
        10 => {}
        11 => world.devices[device].crash_in = Some(script.number() % 8),
        12 => {
            world.devices[device].latency = Duration::from_millis(script.number() % 5_000);
        }
        13 => match world.server {
            Some(_) => world.kill_server(),
            None => world.start_server(),
        },
        14 => match script.pick(3) {
            0 => world.server_disk_full = !world.server_disk_full,
            1 => world.devices[device].connect ^= true,
            _ => world.devices[device].fail_disk = Some(StoreFaultKind::Full),
        },
        _ => {
            let after = span(script).min(Duration::from_secs(100));
            world.pass(after);
        }
    }
}

fn calm(world: &mut World) {
    world.server_disk_full = false;
    if world.server.is_none() {
        world.start_server();
    }
    for index in 0..NAMES.len() {
        let device = &mut world.devices[index];
        (device.crash_in, device.fail_disk, device.connect) = (None, None, true);
        device.latency = Duration::ZERO;
        if device.client.is_none() || device.fatal.is_some() {
            world.crash(index);
            world.start(index);
        }
    }
    world.pass(Duration::from_secs(300));
}
