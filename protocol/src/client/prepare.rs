//! What an intent needs before it can be committed: the group founded on the server, the account of a name, key
//! packages of its devices.

use super::devices::ANOTHERS;
use super::direct::is_direct;
use super::directory;
use super::event::{Failed, Outcome};
use super::inbound::pause;
use super::intent::{Intent, Want};
use super::net::Call;
use super::{Client, WrongReply, session::Phase};
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, Sender};
use crate::io::Ticket;
use crate::mls::MlsError;
use crate::mls::group::Founding;
use crate::mls::key_package::check;
use crate::mls::suite::Suite;
use crate::store::batch::Op;
use crate::wire::message::{ChannelKind, ClaimedKeyPackage, Failure, Request, Username};

impl Client {
    /// Moves the intents of a channel on: asks for what they lack, commits what is ready.
    pub(super) fn pump_intents(&mut self, id: ChannelId) {
        if self.phase() != Some(Phase::Online) {
            return;
        }
        let held = self.channels.get(&id).and_then(|channel| channel.hold_until);
        if held.is_none_or(|at| at <= self.now.mono) {
            for ticket in self.intents_of(id) {
                self.prepare(ticket);
            }
        }
        self.commit_ready(id);
    }

    fn prepare(&mut self, ticket: Ticket) {
        let later = self.is_put_off(ticket) || !self.direct_asks(ticket);
        if self.inflight.contains(&ticket) || later {
            return;
        }
        let Some(intent) = self.intents.get(&ticket) else { return };
        let channel = intent.channel;
        let (call, request) = match &intent.want {
            // Which key the server knows this device by is open.
            Want::Found { .. } if self.rotation.is_under_way() => return,
            Want::Found { group_info, tree } => {
                let (group_info, tree) = (group_info.clone().into(), tree.clone().into());
                let with = self.wanted_with(channel);
                let kind = if with.is_some() { ChannelKind::Direct } else { ChannelKind::Group };
                let generation = 1;
                let request =
                    Request::ChannelCreate { channel, kind, generation, group_info, tree, with };
                (Call::Found(ticket), request)
            }
            Want::Add { username, account: None, .. } => {
                (Call::Resolve(ticket), Request::AccountLookup { username: username.clone() })
            }
            Want::Add { account: Some(account), packages: None, .. }
            | Want::Return { account, packages: None, .. } => {
                let Some(suite) = self.suite_in(channel) else { return };
                let request = Request::KeyPackageFetch { account: *account, suite, device: None };
                (Call::Claim(ticket), request)
            }
            Want::Admit { device, package: None } => {
                let device = *device;
                return self.prepare_admission(ticket, channel, device);
            }
            _ => return,
        };
        self.inflight.insert(ticket);
        self.call(call, request);
    }

    /// The suite of a group, or of a direct channel that is to be founded.
    fn suite_in(&self, id: ChannelId) -> Option<Suite> {
        let known = self.channels.get(&id).map(|channel| channel.row.suite);
        known.or(is_direct(id).then(Suite::default))
    }

    /// The group is founded on the server.
    pub(super) fn on_founded(&mut self, ticket: Ticket) {
        let Some(channel) = self.intents.get(&ticket).map(|intent| intent.channel) else { return };
        self.founding.remove(&channel);
        self.fulfil(ticket, Outcome::Group(channel));
        self.wake_inboxes();
        // The direct channel takes in all devices of both accounts anyway, in one commit.
        if !is_direct(channel) {
            self.admit_all(channel);
        }
    }

    /// The server did not take a founding: if it was made with a key that this device does not have any more, it is
    /// made anew. Whether it is.
    fn found_anew(&mut self, ticket: Ticket) -> bool {
        if self.rotation.is_under_way() {
            return true;
        }
        let Some(id) = self.intents.get(&ticket).map(|intent| intent.channel) else { return false };
        let of_before =
            |intent: &Intent| intent.channel == id && matches!(intent.want, Want::Rotate);
        let of_before = self.intents.iter().find(|(_, intent)| of_before(intent));
        let Some(of_before) = of_before.map(|(ticket, _)| *ticket) else { return false };
        let Some(own) = self.me().map(|me| me.account) else { return false };
        let Some(row) = self.channels.get(&id).map(|channel| &channel.row) else { return false };
        let (suite, name) = (row.suite, row.name.clone().unwrap_or_default());
        let mut admins: Vec<_> = self.wanted_with(id).into_iter().chain([own]).collect();
        admins.sort_unstable();
        self.gate.stage(Op::DeletePrefix(directory::group_prefix(id, row.generation)));
        let Ok(Founding { group_info, tree }) = self.make_group(id, suite, admins, &name) else {
            return false;
        };
        self.drop_intent(of_before);
        let want = Want::Found { group_info, tree };
        self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
        true
    }

    /// The account of a name to invite.
    ///
    /// A name that led to another account before is not followed until the application has accepted that.
    pub(super) fn on_resolved(
        &mut self,
        ticket: Ticket,
        named: &Username,
        account: AccountId,
    ) -> Result<(), WrongReply> {
        let Some(mut intent) = self.intents.remove(&ticket) else { return Ok(()) };
        let mut learned = Ok(());
        let mut wrong = false;
        if let Want::Add { username, account: wanted, .. } = &mut intent.want {
            wrong = username != named;
            if !wrong {
                *wanted = Some(account);
                learned = self.learn(account, username.clone());
            }
        }
        self.store_intent(ticket, intent);
        if wrong {
            return Err(WrongReply);
        }
        if let Err(contradiction) = learned {
            self.fail_intent(ticket, Failed::from(contradiction));
        }
        Ok(())
    }

    /// Key packages of an account to invite: those that hold are kept with the intent, until it has come true. Devices
    /// whose packages do not hold are named; if all there is was made by somebody else, nobody is to be trusted.
    pub(super) fn on_claimed(&mut self, ticket: Ticket, claimed: Vec<ClaimedKeyPackage>) {
        let admission = |intent: &Intent| matches!(intent.want, Want::Admit { .. });
        if self.intents.get(&ticket).is_some_and(admission) {
            return self.on_admission(ticket, claimed);
        }
        let Some(mut intent) = self.intents.remove(&ticket) else { return };
        // Who left before a reset is not asked back by it.
        let asked = match &intent.want {
            Want::Return { devices, .. } => Some(devices.clone()),
            _ => None,
        };
        let (Want::Add { account: Some(account), packages, missing, .. }
        | Want::Return { account, packages, missing, .. }) = &mut intent.want
        else {
            return;
        };
        let account = *account;
        let suite = self.suite_in(intent.channel);
        let mut sound = Vec::new();
        let mut forged = false;
        for ClaimedKeyPackage { device, package, .. } in claimed {
            if asked.as_ref().is_some_and(|asked| !asked.contains(&device)) {
                continue;
            }
            let checked = match &package {
                None => Err("it has no key package".to_owned()),
                Some(bytes) => check(self.config.backend, bytes, self.now.wall)
                    .map_err(|error| {
                        // Whose it is, the server checks when it takes one; what does not hold now, it made up.
                        forged |= !matches!(
                            error,
                            MlsError::Expired | MlsError::Suite | MlsError::Capabilities
                        );
                        error.to_string()
                    })
                    .and_then(|checked| {
                        let of = Sender { account, device };
                        if checked.record.sender() != of {
                            forged = true;
                            Err(ANOTHERS.to_owned())
                        } else if Some(checked.suite) != suite {
                            Err("its key package is of another cipher suite".to_owned())
                        } else {
                            Ok(())
                        }
                    }),
            };
            match (checked, package) {
                (Ok(()), Some(bytes)) => sound.push(bytes.to_vec()),
                (Err(why), _) => missing.push((device, why)),
                (Ok(()), None) => {}
            }
        }
        if forged && sound.is_empty() {
            let why = "a key package that the account's own device did not make";
            self.intents.insert(ticket, intent);
            return self.fail_intent(ticket, Failed::Untrusted(why));
        }
        if sound.is_empty() {
            let last = missing.last().map(|(device, why)| format!("device {device}: {why}"));
            let why = last.unwrap_or_else(|| "it has no device".into());
            self.intents.insert(ticket, intent);
            if self.owes_the_other(ticket) {
                return self.owe_the_other(ticket);
            }
            return self.fail_intent(ticket, Failed::NotAdded { account, why });
        }
        *packages = Some(sound);
        self.store_intent(ticket, intent);
    }

    /// The server refused what an intent asked.
    pub(super) fn on_intent_refused(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(intent) = self.intents.get(&ticket) else { return };
        let founding = matches!(intent.want, Want::Found { .. });
        let admission = matches!(intent.want, Want::Admit { .. });
        let channel = intent.channel;
        match failure.code {
            ErrorCode::ChannelExists if founding && is_direct(channel) => {
                self.place_is_taken(channel, ticket);
            }
            // The answer to a first try was lost: nobody else can have drawn this id.
            ErrorCode::ChannelExists if founding => self.on_founded(ticket),
            ErrorCode::RateLimited => self.put_off(ticket, failure.retry_after_ms),
            ErrorCode::Unavailable | ErrorCode::Busy if !self.channels.contains_key(&channel) => {
                self.put_off(ticket, failure.retry_after_ms);
            }
            ErrorCode::Unavailable | ErrorCode::Busy => {
                self.hold(channel, failure.retry_after_ms);
            }
            _ if founding && self.found_anew(ticket) => {}
            _ if admission => self.set_back(ticket),
            ErrorCode::NoKeyPackage if self.owes_the_other(ticket) => {
                self.owe_the_other(ticket);
            }
            _ => {
                // Without the group nothing else that was wanted there can come true.
                let lost = if founding { self.intents_of(channel) } else { vec![ticket] };
                for ticket in lost {
                    self.fail_intent(ticket, Failed::from(failure));
                }
                if founding {
                    self.founding.remove(&channel);
                    self.forget_channel(channel);
                    self.wake_inboxes();
                }
            }
        }
    }

    /// Does nothing in a channel for a while.
    pub(super) fn hold(&mut self, id: ChannelId, retry_after_ms: u32) {
        let at = self.now.mono + pause(retry_after_ms);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.hold_until = channel.hold_until.max(Some(at));
        }
    }
}
