//! Members who change a group at the same time, one of them on a slow link: everybody's change comes true.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::agree;
use qpc_protocol::client::Role;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::CLAIMS_BETWEEN;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Request};
use qpc_sim::world::{Rules, World};

const MEMBERS: usize = 8;
const SLOW: usize = MEMBERS - 1;
/// Two who want the same guest.
const RIVALS: [usize; 2] = [1, 3];
const FAST_LINK: Duration = Duration::from_millis(5);
const SLOW_LINK: Duration = Duration::from_millis(50);

/// Somebody to invite.
#[derive(Clone)]
struct Guest {
    name: String,
    device: usize,
    account: AccountId,
}

struct Crowd {
    world: World,
    channel: ChannelId,
    /// Each member's own guests, whom it invites and removes one after the other: so many that it stays within its
    /// budget of each one's key packages.
    guests: Vec<Vec<Guest>>,
    /// Guests of two members, who want each in, and out again, at the same time.
    shared: Vec<Guest>,
    /// Who is in, and how often each member has invited.
    inside: Vec<Option<Guest>>,
    invited: Vec<usize>,
    /// Key packages asked for, by member.
    fetched: Rc<RefCell<BTreeMap<usize, usize>>>,
}

impl Crowd {
    fn new(seed: u64, rounds: usize) -> Self {
        let mut world = World::new(Rules::new(seed));
        for number in 0..MEMBERS {
            world.register(&format!("member{number}"));
        }
        let most = rounds.div_ceil(2).div_ceil(CLAIMS_BETWEEN as usize);
        let mut guest = |number: usize, of: usize| {
            let name = format!("guest{number}of{of}");
            let device = world.register(&name);
            let account = world.client(device).whoami().unwrap().1.account;
            Guest { name, device, account }
        };
        let guests: Vec<Vec<_>> =
            (0..MEMBERS).map(|of| (0..most).map(|number| guest(number, of)).collect()).collect();
        let shared = (0..most).map(|number| guest(number, MEMBERS)).collect();
        let made = world.done(0, |client, now| client.create_group(now, "crowd", Suite::Hybrid));
        let Outcome::Group(channel) = made else { panic!("{made:?}") };
        for number in 1..MEMBERS {
            let name = format!("member{number}");
            world.done(0, |client, now| client.invite(now, channel, &name));
            let account = world.client(number).whoami().unwrap().1.account;
            world.done(0, |client, now| client.set_role(now, channel, account, Role::Admin));
        }
        world.settle();
        for device in 0..MEMBERS {
            world.devices[device].latency = if device == SLOW { SLOW_LINK } else { FAST_LINK };
        }
        let fetched: Rc<RefCell<BTreeMap<usize, usize>>> = Rc::default();
        let count = fetched.clone();
        world.liar = Some(Box::new(move |device, up, frame| {
            if up && matches!(frame.body, Body::Request(Request::KeyPackageFetch { .. })) {
                *count.borrow_mut().entry(device).or_default() += 1;
            }
            vec![frame]
        }));
        let (inside, invited) = (vec![None; MEMBERS], vec![0; MEMBERS]);
        Self { world, channel, guests, shared, inside, invited, fetched }
    }

    /// A member wants its guest in, or out again.
    fn wish(&mut self, member: usize) -> Ticket {
        let channel = self.channel;
        if let Some(guest) = self.inside[member].take() {
            self.world.command(member, |client, now| client.remove(now, channel, guest.account))
        } else {
            let guests = &self.guests[member];
            let guest = guests[self.invited[member] % guests.len()].clone();
            self.invited[member] += 1;
            self.inside[member] = Some(guest.clone());
            self.world.command(member, |client, now| client.invite(now, channel, &guest.name))
        }
    }

    /// One of the two wants the guest of both in, in every other round, or out again.
    fn wish_shared(&mut self, member: usize, round: usize) -> Ticket {
        let (channel, times) = (self.channel, round / 2);
        let guest = self.shared[times % self.shared.len()].clone();
        if round % 2 == 1 {
            return self
                .world
                .command(member, |client, now| client.remove(now, channel, guest.account));
        }
        self.invited[member] += 1;
        self.world.command(member, |client, now| client.invite(now, channel, &guest.name))
    }

    fn is_done(&self, member: usize, ticket: Ticket) -> bool {
        self.outcome(member, ticket).is_some()
    }

    fn outcome(&self, member: usize, ticket: Ticket) -> Option<&Outcome> {
        let mut log = self.world.devices[member].log.iter().rev();
        log.find_map(|event| match event {
            Event::Done(done, outcome) if *done == ticket => Some(outcome),
            Event::Failed(done, failed) if *done == ticket => panic!("{member}: {failed:?}"),
            _ => None,
        })
    }
}

/// A round ends when all fast members are through, and the next one begins at once: nobody waits for the slow one.
///
/// Returns the most rounds that the slow one has waited.
fn rounds(seed: u64, rounds: usize) -> usize {
    let mut crowd = Crowd::new(seed, rounds);
    let before = crowd.world.group(0, crowd.channel).epoch;
    let mut slow = (crowd.wish(SLOW), 0);
    let (mut longest, mut came_true) = (0, 0);
    let mut unchanged = 0;
    for number in 0..rounds {
        let round: Vec<_> = (0..SLOW)
            .map(|member| {
                // Some want new keys, which nobody can propose; some want others in or out, two of them the same ones.
                let ticket = if member % 2 == 0 {
                    crowd.wish(member)
                } else if RIVALS.contains(&member) {
                    crowd.wish_shared(member, number)
                } else {
                    let channel = crowd.channel;
                    crowd.world.command(member, |client, now| client.update(now, channel))
                };
                (member, ticket)
            })
            .collect();
        loop {
            if round.iter().all(|(member, ticket)| crowd.is_done(*member, *ticket)) {
                break;
            }
            let wake = crowd.world.run().expect("something is under way");
            let span = wake.saturating_sub(crowd.world.now.mono).max(Duration::from_micros(1));
            crowd.world.advance(span);
        }
        let rivals = RIVALS.map(|member| crowd.outcome(member, round[member].1));
        unchanged += match rivals {
            [Some(Outcome::Epoch(_)), Some(Outcome::Epoch(_))] => 0,
            [Some(Outcome::Epoch(at)), Some(Outcome::Unchanged(of))]
            | [Some(Outcome::Unchanged(of)), Some(Outcome::Epoch(at))] => {
                assert!(at <= of && number % 2 == 0);
                1
            }
            other => panic!("{other:?}"),
        };
        slow.1 += 1;
        longest = longest.max(slow.1);
        if crowd.is_done(SLOW, slow.0) {
            came_true += 1;
            slow = (crowd.wish(SLOW), 0);
        }
    }
    crowd.world.settle();
    assert!(crowd.is_done(SLOW, slow.0));
    assert!(came_true >= rounds / 5, "{came_true}");
    // Of two who want the same one changes something, and the other finds it true.
    assert!(unchanged >= rounds / 4, "{unchanged}");
    let Crowd { world, channel, invited, fetched, inside, .. } = crowd;
    let devices: Vec<_> =
        (0..MEMBERS).chain(inside.iter().flatten().map(|guest| guest.device)).collect();
    agree(&world, channel, &devices);
    let fetched: Vec<_> =
        (0..MEMBERS).map(|n| fetched.borrow().get(&n).copied().unwrap_or(0)).collect();
    assert_eq!(fetched, invited, "key packages were fetched twice for one intent");
    // One commit per epoch, seen by all.
    let epochs: Vec<_> = world.devices[0]
        .log
        .iter()
        .filter_map(|event| match event {
            Event::Changed(change) if change.epoch > before => Some(change.epoch),
            _ => None,
        })
        .collect();
    assert!(epochs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{epochs:?}");
    for device in &world.devices {
        let bad = device.log.iter().find(|event| {
            matches!(
                event,
                Event::Failed(..)
                    | Event::Unreadable { .. }
                    | Event::ForkDetected { .. }
                    | Event::ForkSuspected { .. }
            )
        });
        assert!(bad.is_none(), "{bad:?}");
    }
    longest
}

#[test]
fn a_slow_member_gets_its_change_in_while_seven_others_never_pause() {
    assert!(rounds(1, 12) <= 5);
}

/// The same for longer, by several seeds; takes minutes.
#[test]
#[ignore = "takes minutes"]
fn a_hundred_rounds() {
    let longest = (1..=8).map(|seed| (seed, rounds(seed, 100)));
    let late: Vec<_> = longest.filter(|(_, longest)| *longest > 5).collect();
    assert_eq!(late, [], "seed, and rounds that the slow member waited");
}
