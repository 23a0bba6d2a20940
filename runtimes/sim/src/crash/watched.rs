//! A world that the oracle watches, with people who give commands in it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::resume_unwind;
use std::rc::Rc;

use qpc_protocol::client::Client;
use qpc_protocol::client::event::Outcome;
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;
use zeroize::Zeroizing;

use crate::oracle::{Asked, Failure, Oracle, PLANTED};
use crate::world::{Remains, Rules, World};

/// See the module.
pub(super) struct Watched {
    world: World,
    oracle: Rc<RefCell<Oracle>>,
}

/// One that is switched off, with what the oracle knows of it.
pub(super) struct Past {
    remains: Remains,
    oracle: Oracle,
}

/// A name as the oracle looks for it on the wire.
pub(super) fn planted(name: &str) -> String {
    format!("{PLANTED}-{name}")
}

fn password(name: &str) -> Zeroizing<String> {
    planted(&format!("password of {name}")).into()
}

impl Watched {
    /// A world with a server and nobody else.
    pub(super) fn new(rules: Rules) -> Self {
        let world = World::new(rules);
        let oracle = Oracle::new(world.key_keeper());
        Self::of(world, oracle)
    }

    /// A world with a past: its devices are there, and switched off.
    pub(super) fn from(rules: Rules, past: &Past) -> Self {
        let world = World::from(rules, &past.remains);
        let oracle = past.oracle.later(world.key_keeper());
        Self::of(world, oracle)
    }

    fn of(mut world: World, oracle: Oracle) -> Self {
        world.plant(PLANTED.as_bytes());
        let oracle = Rc::new(RefCell::new(oracle));
        let model = oracle.clone();
        world.watch = Some(Box::new(move |now, seen| {
            if let Err(Failure { rule, what, .. }) = model.borrow_mut().see(now, seen) {
                // Nothing but the end of the run ends such a step.
                resume_unwind(Box::new(format!("{rule}: {what}")));
            }
        }));
        Self { world, oracle }
    }

    pub(super) fn past(&self) -> Past {
        Past { remains: self.world.remains(), oracle: self.oracle.borrow().clone() }
    }

    /// What goes on from here is a step of its own.
    pub(super) fn begin(&self, step: usize) {
        self.oracle.borrow_mut().begin(step);
    }

    /// A new device, switched on.
    pub(super) fn device(&mut self) -> usize {
        self.oracle.borrow_mut().device();
        self.world.device()
    }

    /// Switches a device on.
    pub(super) fn start(&mut self, device: usize) {
        self.oracle.borrow_mut().started(device);
        self.world.start(device);
    }

    /// Gives a command; it may be refused.
    pub(super) fn give(
        &mut self,
        by: usize,
        asked: Asked,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Result<Ticket, Refused> {
        let given = self.world.ask(by, run);
        if let Ok(ticket) = given {
            self.oracle.borrow_mut().issued(by, ticket, asked);
        }
        given
    }

    /// Gives a command that is accepted, and the world goes on until it is done.
    pub(super) fn done(
        &mut self,
        by: usize,
        asked: Asked,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Outcome {
        let ticket = self.give(by, asked, run);
        #[expect(clippy::expect_used, reason = "a failure is a panic")]
        let ticket = ticket.expect("accepted");
        self.world.outcome(by, ticket)
    }

    /// Gives a device without an account one.
    pub(super) fn register(&mut self, by: usize, name: &str) -> Result<Ticket, Refused> {
        let asked = Asked::Account(name.into());
        self.give(by, asked, |client, now| client.register(now, name, password(name)))
    }

    /// Gives a device a session of an account.
    pub(super) fn log_in(&mut self, by: usize, name: &str) -> Result<Ticket, Refused> {
        let asked = Asked::Account(name.into());
        self.give(by, asked, |client, now| client.login(now, name, password(name)))
    }

    /// Sends a text: each time another one that ends with these words.
    pub(super) fn say(
        &mut self,
        by: usize,
        channel: ChannelId,
        words: &str,
    ) -> Result<Ticket, Refused> {
        let body = self.oracle.borrow_mut().words(by, channel, words);
        let asked = Asked::Said(self.oracle.borrow().last_text());
        self.give(by, asked, |client, now| client.send(now, channel, &body))
    }

    /// Acknowledges all that was told in a channel.
    pub(super) fn acknowledge(&mut self, by: usize, channel: ChannelId) -> Result<(), Refused> {
        let told = self.oracle.borrow().last_told(by, channel);
        let Some(seq) = told else { return Ok(()) };
        let now = self.world.now_of(by);
        self.world.client(by).ack(now, channel, seq)?;
        self.oracle.borrow_mut().acknowledged(by, channel, seq);
        Ok(())
    }

    /// Somebody lies to a device.
    pub(super) fn lied(&self, device: usize) {
        self.oracle.borrow_mut().lied(device);
    }

    /// What is not as it has to be once everybody is at rest.
    pub(super) fn unsettled(&self) -> Option<String> {
        let unsettled = self.oracle.borrow().unsettled(&self.world);
        unsettled.map(|(rule, what)| format!("{rule}: {what}"))
    }

    /// Everybody is at rest for good.
    pub(super) fn rest(&self) {
        self.oracle.borrow_mut().rest(&self.world);
    }

    /// The first promise that was not kept.
    pub(super) fn kept(&self) -> Result<(), String> {
        let oracle = self.oracle.borrow();
        let broken = |Failure { rule, what, .. }: &Failure| format!("{rule}: {what}");
        oracle.failures.first().map_or(Ok(()), |failure| Err(broken(failure)))
    }
}

impl Deref for Watched {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}
