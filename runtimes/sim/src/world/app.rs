//! What an application does with a device, and what it sees.

use qpc_protocol::client::Client;
use qpc_protocol::client::event::{Event, Failed, GroupSummary, Message, Outcome};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;

use super::World;

impl World {
    /// The machine of a device that is on.
    pub fn client(&mut self, device: usize) -> &mut Client {
        self.devices[device].client.as_mut().expect("the device is on")
    }

    /// A command, as the device's own clock stands; it may be refused.
    ///
    /// # Errors
    /// What the machine has against it.
    pub fn ask(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Result<Ticket, Refused> {
        let now = self.now_of(device);
        self.stand_at(device, now);
        run(self.client(device), now)
    }

    /// A command that is accepted.
    pub fn command(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Ticket {
        self.ask(device, run).expect("accepted")
    }

    /// A command, and the world goes on until it is done.
    pub fn done(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Outcome {
        let ticket = self.command(device, run);
        self.outcome(device, ticket)
    }

    /// Goes on until a ticket is done.
    pub fn outcome(&mut self, device: usize, ticket: Ticket) -> Outcome {
        match self.end(device, ticket) {
            Event::Done(_, outcome) => outcome,
            event => panic!("device {device}: {event:?}"),
        }
    }

    /// Goes on until a ticket has failed.
    pub fn failure(&mut self, device: usize, ticket: Ticket) -> Failed {
        match self.end(device, ticket) {
            Event::Failed(_, failed) => failed,
            event => panic!("device {device}: {event:?}"),
        }
    }

    /// Goes on until a ticket is answered, and takes the answer.
    fn end(&mut self, device: usize, ticket: Ticket) -> Event {
        let is = |event: &Event| match event {
            Event::Done(done, _) | Event::Failed(done, _) => *done == ticket,
            _ => false,
        };
        self.until(|world| world.devices[device].events.iter().any(is));
        let events = &mut self.devices[device].events;
        let at = events.iter().position(is).unwrap();
        events.remove(at)
    }

    /// Registers a new account on a device.
    pub fn register(&mut self, name: &str) -> usize {
        let device = self.device();
        let password = format!("password of {name}").into();
        self.done(device, |client, now| client.register(now, name, password));
        device
    }

    /// A further device of an account.
    pub fn login(&mut self, name: &str) -> usize {
        let device = self.device();
        let password = format!("password of {name}").into();
        self.done(device, |client, now| client.login(now, name, password));
        device
    }

    /// Goes on until everybody who is on has nothing left to do.
    pub fn settle(&mut self) {
        self.until(|world| {
            world.devices.iter().filter_map(|device| device.client.as_ref()).all(Client::is_idle)
        });
    }

    /// The groups that a device knows.
    pub fn groups(&self, device: usize) -> Vec<GroupSummary> {
        self.devices[device].client.as_ref().unwrap().groups()
    }

    /// One of them.
    pub fn group(&self, device: usize, channel: ChannelId) -> GroupSummary {
        let group = self.groups(device).into_iter().find(|group| group.channel == channel);
        group.unwrap_or_else(|| panic!("device {device} does not know {channel}"))
    }

    /// What a device was told to show, in all its runs.
    pub fn messages(&self, device: usize) -> Vec<Message> {
        let of = |event: &Event| match event {
            Event::Message(message) => Some(message.clone()),
            _ => None,
        };
        self.devices[device].log.iter().filter_map(of).collect()
    }

    /// The same as text.
    pub fn bodies(&self, device: usize) -> Vec<String> {
        let text = |message: Message| String::from_utf8_lossy(&message.body).into_owned();
        self.messages(device).into_iter().map(text).collect()
    }
}
