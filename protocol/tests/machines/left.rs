//! Who has left a group by its own wish stays out of it, until somebody asks for it.

use std::time::Duration;

use crate::reset::{all_talk, reset, two_admins};
use crate::talk::*;
use qpc_protocol::client::event::Why;
use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::{ENTRY_TIME, KEY_PACKAGE_TIME, REJOIN_TIME};
use qpc_sim::world::{Rules, World};

/// Alice, Bob and Carol in a group that Bob's tablet was in too, and has left.
fn without_the_tablet(mut world: World, channel: ChannelId) -> (World, usize) {
    let tablet = world.login("bob");
    world.pass(Duration::from_secs(120));
    assert!(world.group(tablet, channel).member);
    world.done(tablet, |client, now| client.leave(now, channel));
    world.settle();
    assert_eq!(world.group(ALICE, channel).members, 3);
    (world, tablet)
}

/// However long its siblings have time.
fn stays_out(world: &mut World, channel: ChannelId, tablet: usize) {
    world.pass(Duration::from_secs(120));
    assert_eq!(world.group(ALICE, channel).members, 3);
    assert!(!world.groups(tablet).iter().any(|group| group.channel == channel && group.member));
}

/// Its sibling remembers it across a restart and a second reset, and until somebody asks for it.
#[test]
fn a_device_that_has_left_is_not_brought_back_by_its_own_account_s_reset() {
    let (world, channel) = two_admins(83);
    let (mut world, tablet) = without_the_tablet(world, channel);
    for (by, generation) in [(BOB, 2), (ALICE, 3), (BOB, 4)] {
        restart(&mut world, BOB);
        world.settle();
        assert_eq!(reset(&mut world, by, channel, None), generation);
        all_talk(&mut world, channel, &[ALICE, BOB, CAROL], generation);
        stays_out(&mut world, channel, tablet);
    }
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL, tablet]);
    // It was asked for, and belongs to the group as any other.
    assert_eq!(reset(&mut world, ALICE, channel, None), 5);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL, tablet], 5);
}

/// A reset asks back the devices that were there.
#[test]
fn a_device_that_has_left_is_not_brought_back_by_another_account_s_reset() {
    let (world, channel) = three(82);
    let (mut world, tablet) = without_the_tablet(world, channel);
    assert_eq!(reset(&mut world, ALICE, channel, None), 2);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    stays_out(&mut world, channel, tablet);
}

/// Its sibling was away when it left, and reads neither that nor what came after it; or has forgotten the group
/// altogether.
#[test]
fn a_device_that_has_left_is_not_brought_back_by_a_sibling_that_comes_back() {
    let (mut world, channel) = three(84);
    let tablet = world.login("bob");
    world.pass(Duration::from_secs(120));
    world.crash(BOB);
    world.done(tablet, |client, now| client.leave(now, channel));
    world.settle();
    world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
    world.pass(Duration::from_secs(120));
    said(&mut world, CAROL, channel, "not for bob");
    world.start(BOB);
    world.until(|world| rejoins(world, BOB) == [Why::Gap]);
    stays_out(&mut world, channel, tablet);
    assert_eq!(reset(&mut world, ALICE, channel, None), 2);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    stays_out(&mut world, channel, tablet);
}

#[test]
fn a_device_that_has_left_is_not_brought_back_by_a_sibling_that_knows_nothing_of_it() {
    let mut world = World::new(Rules::new(85));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let tablet = world.login("bob");
    world.settle();
    let copy = world.devices[BOB].disk.clone();
    // The key packages of the backup end, others take their place.
    world.advance(KEY_PACKAGE_TIME + Duration::from_secs(3_600));
    world.pass(Duration::from_secs(120));
    world.crash(BOB);
    world.devices[BOB].log.clear();
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    world.done(tablet, |client, now| client.leave(now, channel));
    world.settle();
    put_back(&mut world, BOB, copy);
    world.until(|world| rejoins(world, BOB) == [Why::Added]);
    stays_out(&mut world, channel, tablet);
    // Nor by one that is new to the account, and by whoever resets the group then.
    let phone = world.login("bob");
    world.pass(Duration::from_secs(120));
    agree(&world, channel, &[ALICE, BOB, CAROL, phone]);
    assert_eq!(world.group(ALICE, channel).members, 4);
    // Who came back from outside a moment ago does not do so again.
    world.pass(REJOIN_TIME);
    assert_eq!(reset(&mut world, ALICE, channel, None), 2);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL, phone], 2);
    assert_eq!(world.group(ALICE, channel).members, 4);
}
