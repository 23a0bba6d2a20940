//! A device whose disk was put back to an earlier state: it encrypts nothing before it has come back by new keys, and
//! what it had done or wanted comes true once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::rejoin::undisturbed;
use crate::reset::{all_talk, reset};
use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome, Why};
use qpc_protocol::limits::{KEY_PACKAGE_TIME, RESEND_TIME, UNOPENED_WELCOMES};
use qpc_protocol::wire::message::{Body, Reply, Request};
use qpc_sim::world::{Rules, World};

/// What a device asks the server to write, in order: `true` for a commit from outside.
fn writes(world: &mut World, of: usize) -> Rc<RefCell<Vec<bool>>> {
    let seen: Rc<RefCell<Vec<bool>>> = Rc::default();
    let keep = seen.clone();
    world.liar = Some(Box::new(move |device, up, frame| {
        if device == of && up {
            match &frame.body {
                Body::Request(Request::Submit(_)) => keep.borrow_mut().push(false),
                Body::Request(Request::Commit(bundle)) => {
                    keep.borrow_mut().push(is_outside(bundle))
                }
                _ => {}
            }
        }
        vec![frame]
    }));
    seen
}

/// However much the copied device did after the copy, and whether or not the log still shows it: nothing is encrypted
/// before a commit from outside, then all talk.
#[test]
fn a_restored_backup_comes_back_before_it_encrypts_anything() {
    for (seed, kept, committed) in
        [(1, true, false), (2, true, true), (3, false, false), (4, false, true)]
    {
        let (mut world, channel) = three(seed);
        said(&mut world, ALICE, channel, "before");
        world.settle();
        let copy = world.devices[BOB].disk.clone();
        // While somebody has not read them the log holds the entries.
        if kept {
            world.crash(CAROL);
        }
        said(&mut world, BOB, channel, "one");
        said(&mut world, ALICE, channel, "two");
        if committed {
            world.done(BOB, |client, now| client.update(now, channel));
            said(&mut world, BOB, channel, "three");
        }
        world.cut(BOB);
        world.settle();
        let epoch = world.group(ALICE, channel).epoch;
        world.devices[BOB].log.clear();
        let writes = writes(&mut world, BOB);
        put_back(&mut world, BOB, copy);
        let waiting = say(&mut world, BOB, channel, "four");
        let update = world.command(BOB, |client, now| client.update(now, channel));
        assert!(matches!(world.outcome(BOB, waiting), Outcome::Sent(_)));
        assert_eq!(world.outcome(BOB, update), Outcome::Epoch(epoch + 2));
        assert_eq!(writes.borrow().first(), Some(&true), "seed {seed}");
        assert_eq!(writes.borrow().iter().filter(|outside| **outside).count(), 1);
        if kept {
            world.start(CAROL);
        }
        world.settle();
        assert!(saw(&world, BOB, restored), "seed {seed}");
        assert_eq!(rejoins(&world, BOB).len(), 1);
        let read = world.bodies(BOB).contains(&"two".to_owned());
        assert_eq!(read, kept, "seed {seed}: what is still there is read again");
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
        undisturbed(&world, &[ALICE, CAROL]);
        assert_eq!(world.group(ALICE, channel).epoch, epoch + 2);
    }
}

/// libxmtp #2706: a recovery flag that nobody ever cleared.
#[test]
fn regression_20_the_recovery_flag_is_cleared_after_recovery() {
    let (mut world, channel) = three(5);
    let second = group_of(&mut world, ALICE, &["bob"]);
    let copy = world.devices[BOB].disk.clone();
    for text in ["one", "two", "three"] {
        said(&mut world, BOB, channel, text);
        world.cut(BOB);
        world.settle();
    }
    put_back(&mut world, BOB, copy);
    world.settle();
    // In every group, whether or not anything was written there.
    assert_eq!(rejoins(&world, BOB).len(), 2);
    agree(&world, second, &[ALICE, BOB]);
    for _ in 0..2 {
        world.crash(BOB);
        world.devices[BOB].log.clear();
        world.start(BOB);
        said(&mut world, BOB, channel, "after");
        said(&mut world, BOB, second, "after");
        world.settle();
        assert!(!saw(&world, BOB, trouble));
        assert!(rejoins(&world, BOB).is_empty());
    }
    // A group joined by a key package that was there before the backup is doubted once; later ones are not.
    let third = group_of(&mut world, CAROL, &["bob"]);
    world.settle();
    assert_eq!(rejoins(&world, BOB).len(), 1);
    agree(&world, third, &[CAROL, BOB]);
    // Another backup that is restored is told as the first was.
    let copy = world.devices[BOB].disk.clone();
    for text in ["four", "five"] {
        said(&mut world, BOB, channel, text);
        world.cut(BOB);
        world.settle();
    }
    world.devices[BOB].log.clear();
    put_back(&mut world, BOB, copy);
    world.pass(Duration::from_secs(10));
    assert!(saw(&world, BOB, restored));
    undisturbed(&world, &[ALICE, CAROL]);
}

/// What the backup holds unsent, and what it wants, comes true once, whether or not it had come true since.
#[test]
fn what_was_sealed_and_wanted_before_the_backup_comes_true_once() {
    for came_true in [true, false] {
        let (mut world, channel) = three(6);
        make_admin(&mut world, ALICE, channel, BOB);
        let dave = world.register("dave");
        world.settle();
        // Sealed and wanted, and nothing of it gets through.
        let held = hold_back(&mut world, BOB, |request| {
            matches!(request, Request::Submit(_) | Request::Commit(_))
        });
        let word = say(&mut world, BOB, channel, "sealed");
        let invite = world.command(BOB, |client, now| client.invite(now, channel, "dave"));
        world.pass(Duration::from_secs(1));
        assert!(held.get() >= 2, "both were made: {}", held.get());
        let copy = world.devices[BOB].disk.clone();
        if came_true {
            world.liar = None;
        }
        // It is used for a while after, heard or not.
        for _ in 0..3 {
            said(&mut world, ALICE, channel, "meanwhile");
            world.pass(Duration::from_secs(60));
            world.cut(BOB);
            world.pass(Duration::from_secs(60));
        }
        if came_true {
            world.settle();
        }
        assert_eq!(count(&world, ALICE, "sealed"), usize::from(came_true));
        assert_eq!(world.group(ALICE, channel).members, if came_true { 4 } else { 3 });
        let epoch = world.group(ALICE, channel).epoch;
        world.liar = None;
        let writes = writes(&mut world, BOB);
        world.devices[BOB].log.clear();
        put_back(&mut world, BOB, copy);
        world.until(|world| !rejoins(world, BOB).is_empty());
        world.settle();
        assert!(is_done(&world, BOB, word) && is_done(&world, BOB, invite), "{came_true}");
        assert_eq!(writes.borrow().first(), Some(&true), "nothing goes out before it is back");
        for other in [ALICE, CAROL] {
            assert_eq!(count(&world, other, "sealed"), 1, "came true: {came_true}");
        }
        agree(&world, channel, &[ALICE, BOB, CAROL, dave]);
        // Coming back is an epoch, and so is dave's coming, if he was not there.
        let expected = epoch + if came_true { 1 } else { 2 };
        assert_eq!(world.group(ALICE, channel).epoch, expected, "{came_true}");
        assert!(!saw(&world, dave, |event| matches!(event, Event::Evicted { .. })));
        undisturbed(&world, &[ALICE, CAROL, dave]);
    }
}

/// The server remembers what it took for a month and more. Whoever hears its answer later cannot know whether a message
/// is in the log, and does not send it again, but for what was never on its way.
#[test]
fn what_may_have_been_sent_a_month_ago_is_told_and_not_sent_again() {
    let day = Duration::from_secs(24 * 60 * 60);
    for (after, clear) in [(RESEND_TIME, false), (RESEND_TIME - day, true)] {
        let (mut world, channel) = three(46);
        lie(&mut world, BOB, false, |_| Vec::new());
        let sent = say(&mut world, BOB, channel, "sent");
        world.pass(Duration::from_secs(1));
        assert_eq!(count(&world, ALICE, "sent"), 1);
        world.devices[BOB].connect = false;
        world.cut(BOB);
        let kept = say(&mut world, BOB, channel, "kept");
        world.pass(Duration::from_secs(1));
        world.liar = None;
        for device in [ALICE, BOB, CAROL] {
            world.crash(device);
        }
        world.pass(after + Duration::from_secs(60));
        world.devices[BOB].connect = true;
        for device in [ALICE, BOB, CAROL] {
            world.start(device);
        }
        world.pass(Duration::from_secs(60));
        for (device, name) in [(ALICE, "alice"), (BOB, "bob"), (CAROL, "carol")] {
            if saw(&world, device, |event| matches!(event, Event::SessionEnded(_))) {
                let password = format!("password of {name}").into();
                world.done(device, |client, now| client.login(now, name, password));
            }
        }
        world.settle();
        assert_eq!(is_done(&world, BOB, sent), clear);
        let unclear = |event: &Event| matches!(event, Event::Failed(ticket, Failed::Unclear(_)) if *ticket == sent);
        assert_eq!(saw(&world, BOB, unclear), !clear);
        assert!(is_done(&world, BOB, kept));
        assert_eq!((count(&world, ALICE, "sent"), count(&world, ALICE, "kept")), (1, 1));
    }
}

/// A server that says that a device was further than it is makes it come back, once, and nothing else.
#[test]
fn a_state_version_of_the_future_costs_an_epoch() {
    let (mut world, channel) = three(7);
    let before = world.group(ALICE, channel).epoch;
    lie_reply(&mut world, BOB, |reply| {
        if let Reply::Session { state_version, .. } = reply {
            *state_version = u64::MAX;
        }
    });
    for _ in 0..4 {
        world.cut(BOB);
        world.pass(Duration::from_secs(20));
    }
    world.liar = None;
    world.crash(BOB);
    world.start(BOB);
    world.settle();
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "honest");
    assert_eq!(world.group(ALICE, channel).epoch, before + 1);
    undisturbed(&world, &[ALICE, CAROL]);
}

/// The server still hands out key packages that a backup does not know. Who is added by one comes in from outside.
#[test]
fn who_is_added_by_a_key_package_it_has_forgotten_gets_in_all_the_same() {
    let mut world = World::new(Rules::new(30));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let copy = world.devices[BOB].disk.clone();
    // Those of the backup end, others take their place.
    world.advance(KEY_PACKAGE_TIME + Duration::from_secs(3_600));
    world.pass(Duration::from_secs(120));
    world.crash(BOB);
    world.devices[BOB].log.clear();
    let channel = group_of(&mut world, ALICE, &["bob"]);
    put_back(&mut world, BOB, copy);
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Added]);
    all_say(&mut world, channel, &[ALICE, BOB], "in");
    agree(&world, channel, &[ALICE, BOB]);
}

/// Of groups that it was added to after the backup was made a device knows nothing, and the welcomes are gone: the
/// server names them, and it comes in from outside.
#[test]
fn a_backup_older_than_an_invitation_comes_into_the_group_by_itself() {
    let (mut world, known) = three(31);
    let copy = world.devices[BOB].disk.clone();
    let channel = group_of(&mut world, ALICE, &["bob"]);
    let direct = world.done(CAROL, |client, now| client.open_direct(now, "bob"));
    let Outcome::Group(direct) = direct else { panic!("{direct:?}") };
    world.settle();
    for group in [channel, direct] {
        said(&mut world, BOB, group, "before");
    }
    world.cut(BOB);
    world.settle();
    world.devices[BOB].log.clear();
    put_back(&mut world, BOB, copy);
    world.settle();
    assert!(saw(&world, BOB, restored));
    let mut whys = rejoins(&world, BOB);
    whys.sort_by_key(|why| *why == Why::Added);
    assert_eq!(whys, [Why::Restored, Why::Added, Why::Added]);
    all_say(&mut world, channel, &[ALICE, BOB], "in");
    all_say(&mut world, direct, &[CAROL, BOB], "in");
    agree(&world, known, &[ALICE, BOB, CAROL]);
    undisturbed(&world, &[ALICE, CAROL]);
    // It is done: nothing is asked for again.
    world.crash(BOB);
    world.devices[BOB].log.clear();
    world.start(BOB);
    world.settle();
    assert!(rejoins(&world, BOB).is_empty() && !saw(&world, BOB, trouble));
    let again = world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    assert_eq!(again, Outcome::Unchanged(world.group(ALICE, channel).epoch));
}

/// A backup brings the private half of a key package back that was used since. The tree of the group that it was used
/// for shows that it was; the others may be used still.
#[test]
fn a_key_package_that_was_used_since_the_backup_is_erased_again() {
    let mut world = World::new(Rules::new(36));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let private = |world: &World| -> BTreeSet<Vec<u8>> {
        let keys = world.devices[BOB].disk.keys();
        keys.filter(|key| key.starts_with(b"k/P")).cloned().collect()
    };
    let (copy, before) = (world.devices[BOB].disk.clone(), private(&world));
    let gone = |world: &World| -> Vec<_> { before.difference(&private(world)).cloned().collect() };
    let channel = group_of(&mut world, ALICE, &["bob"]);
    world.settle();
    let used = gone(&world);
    assert_eq!(used.len(), 1);
    world.devices[BOB].log.clear();
    put_back(&mut world, BOB, copy);
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Added]);
    assert_eq!(gone(&world), used);
    all_say(&mut world, channel, &[ALICE, BOB], "in");
}

/// The server has seen no later state: that this device once had one, the log's entry of its own reset says.
#[test]
fn a_backup_from_before_an_own_reset_comes_into_the_generation_that_it_began() {
    let (mut world, channel) = three(33);
    let copy = world.devices[ALICE].disk.clone();
    // While somebody has not read it the log holds the entry.
    world.crash(CAROL);
    reset(&mut world, ALICE, channel, None);
    world.settle();
    world.devices[ALICE].log.clear();
    put_back(&mut world, ALICE, copy);
    world.settle();
    assert!(saw(&world, ALICE, restored) && !saw(&world, ALICE, suspected));
    assert_eq!(rejoins(&world, ALICE), [Why::Restored]);
    world.start(CAROL);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    undisturbed(&world, &[BOB, CAROL]);
}

/// A server that names groups which nobody added the device to gets it into none of them, and no more than so many
/// questions; nor does a list without end.
#[test]
fn a_server_that_names_groups_at_will_gets_a_device_into_none() {
    let (mut world, known) = three(32);
    let copy = world.devices[BOB].disk.clone();
    said(&mut world, BOB, known, "after the copy");
    world.cut(BOB);
    world.settle();
    let (lists, asked) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0_u32)));
    let (count_lists, count_asked) = (lists.clone(), asked.clone());
    lie_both_ways(&mut world, BOB, move |up, mut frame| {
        match &mut frame.body {
            Body::Request(Request::GroupInfoFetch { channel }) if up && *channel != known => {
                count_asked.set(count_asked.get() + 1);
            }
            Body::Reply(Reply::Channels { channels, more }) => {
                let page = count_lists.get();
                count_lists.set(page + 1);
                let mut info = channels.iter().find(|info| info.channel == known).cloned().unwrap();
                *channels = (0..100)
                    .map(|number| {
                        info.channel.0 = [0; 16];
                        info.channel.0[1] = page as u8;
                        info.channel.0[2] = number + 1;
                        info.clone()
                    })
                    .collect();
                *more = true;
            }
            _ => {}
        }
        vec![frame]
    });
    put_back(&mut world, BOB, copy);
    world.pass(Duration::from_secs(60));
    world.liar = None;
    world.settle();
    assert!((1..=2).contains(&lists.get()), "{}", lists.get());
    assert!((1..=2 * UNOPENED_WELCOMES as u32).contains(&asked.get()), "{}", asked.get());
    let groups = world.groups(BOB);
    let member: Vec<_> = groups.iter().filter(|group| group.member).map(|g| g.channel).collect();
    assert_eq!(member, [known]);
    all_say(&mut world, known, &[ALICE, BOB, CAROL], "still here");
    undisturbed(&world, &[ALICE, CAROL]);
}
