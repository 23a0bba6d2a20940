//! A world whose every input and output is written down.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use qpc_protocol::client::event::Outcome;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use serde_json::Value;

use super::command::Command;
use super::tape::Tape;
use crate::world::{Rules, World};

/// A world, and what it says.
pub(super) struct Stage {
    pub(super) world: World,
    tape: Rc<RefCell<Tape>>,
}

impl Stage {
    pub(super) fn new(seed: u64) -> Self {
        let tape = Rc::new(RefCell::new(Tape::default()));
        let mut world = World::new(Rules::new(seed));
        let watched = tape.clone();
        world.watch = Some(Box::new(move |_, seen| watched.borrow_mut().see(seen)));
        // The server was there before anybody watched.
        world.start_server();
        Self { world, tape }
    }

    /// All steps of the conversation.
    pub(super) fn steps(&self) -> Vec<Value> {
        self.tape.borrow().steps.clone()
    }

    /// A new device.
    pub(super) fn device(&mut self, name: &'static str) -> usize {
        self.tape.borrow_mut().names.push(name);
        self.world.device()
    }

    /// A command that has to be accepted.
    pub(super) fn give(&mut self, device: usize, command: &Command) -> Option<Ticket> {
        let now = self.world.now_of(device);
        let mut given = None;
        let ticket = self.world.command(device, |client, now| {
            given = command.give(client, now)?;
            Ok(given.unwrap_or(Ticket(0)))
        });
        self.tape.borrow_mut().command(device, now, command, given);
        given.map(|_| ticket)
    }

    /// A command, and everything until it is done.
    pub(super) fn done(&mut self, device: usize, command: &Command) -> Outcome {
        let ticket = self.give(device, command).unwrap();
        self.world.outcome(device, ticket)
    }

    /// A new account, on a new device.
    pub(super) fn register(&mut self, name: &'static str) -> usize {
        let device = self.device(name);
        let (username, password) = (name.to_owned(), format!("password of {name}"));
        self.done(device, &Command::Register { username, password });
        self.world.settle();
        device
    }

    /// A new group with these members beside the device that makes it.
    pub(super) fn group(&mut self, device: usize, suite: Suite, others: &[&str]) -> ChannelId {
        let command = Command::CreateGroup { name: "the group".into(), suite };
        let Outcome::Group(channel) = self.done(device, &command) else {
            panic!("no group");
        };
        for other in others {
            self.done(device, &Command::Invite { channel, username: (*other).to_owned() });
        }
        self.world.settle();
        channel
    }

    /// A message that everybody gets.
    pub(super) fn say(&mut self, device: usize, channel: ChannelId, text: &str) {
        self.done(device, &Command::Send { channel, body: text.into() });
        self.world.settle();
    }

    /// Whether anybody sent a frame of that kind.
    pub(super) fn sent(&self, kind: &str) -> bool {
        let tape = self.tape.borrow();
        let mut frames = tape.steps.iter().filter_map(|step| step["frames"].as_array()).flatten();
        frames.any(|frame| frame.as_str().is_some_and(|frame| frame.starts_with(kind)))
    }

    /// What a device was told to show.
    pub(super) fn heard(&self, device: usize) -> Vec<String> {
        self.world.bodies(device)
    }

    /// Time passes in which nobody does anything.
    pub(super) fn skip(&mut self, span: Duration) {
        self.world.advance(span);
    }
}
