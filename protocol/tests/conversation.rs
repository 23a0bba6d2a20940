//! Whole conversations between machines, in memory.

mod world;

use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::id::ChannelId;
use qpc_protocol::mls::suite::Suite;
use world::{Rules, World};

/// Alice founds a group and adds the others.
fn group_of(world: &mut World, founder: usize, names: &[&str], suite: Suite) -> ChannelId {
    let Outcome::Group(channel) =
        world.done(founder, |client, now| client.create_group(now, "the secret name", suite))
    else {
        panic!("no group");
    };
    for name in names {
        world.done(founder, |client, now| client.invite(now, channel, name));
    }
    world.settle();
    channel
}

fn send(world: &mut World, device: usize, channel: ChannelId, text: &str) {
    let outcome = world.done(device, |client, now| client.send(now, channel, text.as_bytes()));
    assert!(matches!(outcome, Outcome::Sent(_)));
}

fn three_talk(rules: Rules, suite: Suite) -> World {
    let mut world = World::new(rules);
    let alice = world.register("alice");
    let bob = world.register("bob");
    let carol = world.register("carol");
    let channel = group_of(&mut world, alice, &["bob", "carol"], suite);
    send(&mut world, alice, channel, "hello from alice");
    send(&mut world, bob, channel, "hello from bob");
    send(&mut world, carol, channel, "hello from carol");
    world.settle();
    assert_eq!(world.bodies(alice), ["hello from bob", "hello from carol"]);
    assert_eq!(world.bodies(bob), ["hello from alice", "hello from carol"]);
    assert_eq!(world.bodies(carol), ["hello from alice", "hello from bob"]);
    let epoch = world.group(alice, channel).epoch;
    for device in [alice, bob, carol] {
        let group = world.group(device, channel);
        assert_eq!(group.epoch, epoch);
        assert_eq!(group.authenticator, world.group(alice, channel).authenticator);
        assert_eq!(group.name.as_deref(), Some("the secret name"));
        assert_eq!(group.members, 3);
    }
    world
}

#[test]
fn three_members_talk_in_a_hybrid_group() {
    three_talk(Rules::new(1), Suite::Hybrid);
}

#[test]
fn three_members_talk_in_a_classical_group_over_one_link() {
    three_talk(Rules::new(2).one_link(), Suite::Classical);
}

#[test]
fn a_device_that_was_off_reads_everything_later() {
    let mut world = World::new(Rules::new(3));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_of(&mut world, alice, &["bob"], Suite::Hybrid);
    world.crash(bob);
    for number in 0..20 {
        send(&mut world, alice, channel, &format!("message {number}"));
    }
    world.start(bob);
    world.settle();
    let expected: Vec<_> = (0..20).map(|number| format!("message {number}")).collect();
    assert_eq!(world.bodies(bob), expected);
    assert!(!world.devices[bob].log.iter().any(|event| matches!(event, Event::Unreadable { .. })));
}
