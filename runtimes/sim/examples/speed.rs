//! How many operations a whole world does in a second, over each backend: `cargo run --release -p qpc-sim --features
//! fast
//! --example speed`. Six devices in a group, each operation with all that comes of it until nobody has anything to do.

#![expect(clippy::print_stdout, reason = "the figures")]

use std::time::Instant;

use qpc_protocol::client::event::Outcome;
use qpc_protocol::crypto::{Backend, portable};
use qpc_protocol::env::Entropy;
use qpc_protocol::id::ChannelId;
use qpc_protocol::mls::suite::Suite;
use qpc_sim::insecure;
use qpc_sim::world::{Rules, World};

const DEVICES: usize = 6;
const OPERATIONS: u32 = 2_000;

fn group(backend: Backend, suite: Suite) -> Option<(World, ChannelId)> {
    let mut world = World::new(Rules { backend, ..Rules::new(1) });
    let names: Vec<_> = (0..DEVICES).map(|number| format!("device{number}")).collect();
    for name in &names {
        world.register(name);
    }
    let made = world.done(0, |client, now| client.create_group(now, "group", suite));
    let Outcome::Group(channel) = made else { return None };
    for name in &names[1..] {
        world.done(0, |client, now| client.invite(now, channel, name));
    }
    world.settle();
    Some((world, channel))
}

fn operate(world: &mut World, channel: ChannelId) {
    let mut dice = Entropy::from_seed([1; 32]);
    for _ in 0..OPERATIONS {
        let device = dice.u64() as usize % DEVICES;
        let now = world.now;
        match dice.u64() % 10 {
            0 => drop(world.client(device).update(now, channel)),
            1 => world.cut(device),
            2 => {
                world.crash(device);
                world.start(device);
            }
            _ => drop(world.client(device).send(now, channel, b"a message")),
        }
        world.settle();
    }
}

fn main() {
    let mut backends = vec![("portable", portable())];
    #[cfg(feature = "fast")]
    backends.push(("fast", qpc_protocol::crypto::fast()));
    backends.extend([("insecure, quick", insecure::quick()), ("insecure, open", insecure::open())]);
    for suite in [Suite::Classical, Suite::Hybrid] {
        for (name, backend) in &backends {
            let Some((mut world, channel)) = group(*backend, suite) else { continue };
            let start = Instant::now();
            operate(&mut world, channel);
            let rate = f64::from(OPERATIONS) / start.elapsed().as_secs_f64();
            println!("{suite:?}, {name}: {rate:.0} operations/s");
        }
    }
}
