//! Any order of what members may do: the server accepts it, all end equal, and every message is read by all that were
//! members when it was sent. Every device restarts after every step.

use proptest::prelude::*;

use super::world::{Device, START, World, adding, removing};
use crate::mls::MlsError;
use crate::mls::commit::Wish;
use crate::mls::group::{Bundle, Plan};
use crate::mls::suite::Suite;

const DEVICES: u8 = 6;

/// One step: who, what, whom.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(usize),
    /// Sent now, read after this many commits.
    SendLate(usize),
    Update(usize),
    Add(usize),
    Remove(usize),
    Leave(usize),
    Race(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..usize::from(DEVICES);
    prop_oneof![
        3 => who.clone().prop_map(Step::Send),
        2 => who.clone().prop_map(Step::SendLate),
        2 => who.clone().prop_map(Step::Update),
        3 => who.clone().prop_map(Step::Add),
        1 => who.clone().prop_map(Step::Remove),
        1 => who.clone().prop_map(Step::Leave),
        2 => (who.clone(), who).prop_map(|(one, other)| Step::Race(one, other)),
    ]
}

struct Run {
    devices: Vec<Device>,
    world: World,
    members: Vec<usize>,
    /// Messages that some have yet to read, and in which epoch they were sent.
    late: Vec<(u64, usize, Vec<u8>, Vec<usize>)>,
}

impl Run {
    fn new(suite: Suite) -> Self {
        let mut devices: Vec<_> = (1..=DEVICES).map(Device::new).collect();
        let world = World::new(suite, &mut devices[..2]);
        Self { devices, world, members: vec![0, 1], late: Vec::new() }
    }

    /// A member for a number; the first device founded the group and stays.
    fn member(&self, number: usize) -> usize {
        self.members[number % self.members.len()]
    }

    fn others(&self, one: usize) -> Vec<usize> {
        self.members.iter().copied().filter(|other| *other != one).collect()
    }

    fn send(&mut self, from: usize, late: bool) {
        let epoch = self.devices[from].group().epoch();
        if self.devices[from].group().has_proposals() {
            self.devices[from].send(b"wait").unwrap_err();
            return;
        }
        let message = self.devices[from].send(&epoch.to_be_bytes()).unwrap();
        self.late.push((epoch, from, message, self.others(from)));
        if !late {
            self.read(u64::MAX);
        }
    }

    /// Everyone reads what is older than `epoch`.
    fn read(&mut self, epoch: u64) {
        let (now, keep) = self.late.drain(..).partition(|late| late.0 < epoch);
        self.late = keep;
        for (sent, from, message, readers) in now {
            for reader in readers.into_iter().filter(|reader| self.members.contains(reader)) {
                let sender = self.devices[from].sender();
                let read = self.devices[reader].read(&message).unwrap();
                assert_eq!(read, (sender, sent.to_be_bytes().to_vec()));
                self.devices[reader].receive(&message).unwrap_err();
            }
        }
    }

    /// A commit that the server has accepted and its maker merged reaches the others.
    fn spread(&mut self, by: usize, bundle: &Bundle) {
        for other in self.others(by) {
            if self.devices[other].follow(&bundle.commit).unwrap().evicted {
                self.members.retain(|member| *member != other);
                self.devices[other].group = None;
                // What it has not read yet it never will.
                self.late.iter_mut().for_each(|late| late.3.retain(|reader| *reader != other));
            }
        }
        let epoch = self.devices[by].group().epoch();
        self.read(epoch - 1);
    }

    fn commit(&mut self, by: usize, plan: &Plan) -> (Bundle, Vec<u8>) {
        let bundle = self.devices[by].commit(plan).unwrap();
        let tree = self.world.accept(&mut self.devices[by], &bundle).unwrap();
        self.spread(by, &bundle);
        (bundle, tree)
    }

    fn leave(&mut self, leaver: usize) {
        let wish =
            self.devices[leaver].run(|group, cx, local| group.propose(cx, local, Wish::Leave));
        let wish = match wish {
            Ok(wish) => wish,
            Err(MlsError::NoAdmin) => return,
            Err(error) => {
                assert!(self.devices[leaver].group().has_proposals(), "{error}");
                return;
            }
        };
        self.world.server.propose(self.devices[leaver].sender(), &wish, START).unwrap();
        for member in self.members.clone() {
            self.devices[member].receive(&wish).unwrap();
        }
    }

    fn race(&mut self, winner: usize, loser: usize) {
        let bundle = self.devices[winner].commit(&Plan::default()).unwrap();
        let late = self.devices[loser].commit(&Plan::default()).unwrap();
        self.world.accept(&mut self.devices[winner], &bundle).unwrap();
        self.world.accept_error(&self.devices[loser], &late);
        self.spread(winner, &bundle);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send(who) => self.send(self.member(who), false),
            Step::SendLate(who) => self.send(self.member(who), true),
            Step::Update(who) => drop(self.commit(self.member(who), &Plan::default())),
            Step::Add(who) if !self.members.contains(&who) => {
                let package = self.devices[who].package(self.world.suite, who % 2 == 0);
                let (bundle, tree) = self.commit(0, &adding(&[package]));
                self.devices[who].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
                self.members.push(who);
            }
            Step::Remove(who) if self.member(who) != 0 => {
                let target = self.devices[self.member(who)].sender();
                self.commit(0, &removing(&[target]));
            }
            Step::Leave(who) if self.member(who) != 0 => self.leave(self.member(who)),
            Step::Race(one, other) if self.member(one) != self.member(other) => {
                self.race(self.member(one), self.member(other));
            }
            _ => {}
        }
        let members: Vec<_> = self.members.iter().map(|index| &self.devices[*index]).collect();
        self.world.agree(&members);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_steps_ends_equal(
        hybrid in prop::bool::weighted(0.2),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut run = Run::new(if hybrid { Suite::Hybrid } else { Suite::Classical });
        for step in steps {
            run.take(step);
        }
        run.read(u64::MAX);
    }
}
