//! Accounts, devices and their key packages as the store's own answers tell them.

use std::collections::BTreeMap;

use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, DeviceId, Digest, Sender};
use qpc_protocol::limits::KEY_PACKAGES_PER_DEVICE;
use qpc_protocol::server::op::{StoreOp, StoreReply};

use super::Oracle;
use super::log::{Broken, Logs};

impl Logs {
    /// Whether a device may still have sessions.
    pub(super) fn is_active(&self, device: Sender) -> bool {
        !self.gone.contains(&device.device) && !self.deleted.contains(&device.account)
    }

    /// The devices of an account, and their keys.
    pub(super) fn devices_of(&self, account: AccountId) -> BTreeMap<DeviceId, [u8; 32]> {
        let of = self.devices.iter().filter(|(sender, _)| sender.account == account);
        of.map(|(sender, key)| (sender.device, *key)).collect()
    }

    /// What an operation changed of them.
    pub(super) fn of_accounts(&mut self, op: &StoreOp, reply: &StoreReply) -> Result<(), Broken> {
        match (op, reply) {
            (StoreOp::CreateAccount(row), StoreReply::Done) => {
                let before = self.accounts.insert(row.username.clone(), row.account);
                if before.is_some() {
                    return Err(("one account per name", row.username.to_string()));
                }
            }
            (StoreOp::PutDevice { record, .. }, StoreReply::Told { .. }) => {
                self.devices.insert(record.sender(), record.device_key);
            }
            (StoreOp::EndTokens { sender, .. }, StoreReply::Done) => {
                self.logged_out.insert(*sender);
            }
            (StoreOp::PutRefresh { sender, .. }, StoreReply::TokensFrom(_)) => {
                self.logged_out.remove(sender);
            }
            (
                StoreOp::PutKeyPackages { sender, .. } | StoreOp::CountKeyPackages { sender, .. },
                StoreReply::KeyPackages { available, last_resort },
            ) => {
                if *available as usize > KEY_PACKAGES_PER_DEVICE {
                    return Err(("limits::KEY_PACKAGES_PER_DEVICE", available.to_string()));
                }
                self.packages.entry(*sender).or_default().insert((*available, *last_resort));
            }
            (StoreOp::ClaimKeyPackages { .. }, StoreReply::Claimed(claimed)) => {
                let once = claimed.iter().filter(|claimed| !claimed.last_resort);
                for package in once.filter_map(|claimed| claimed.package.as_ref()) {
                    if !self.claimed.insert(Digest::of(&[package])) {
                        let what = format!("{} bytes", package.len());
                        return Err(("a key package is handed out once", what));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Oracle {
    /// A device's session ended for good: somebody wanted that, or it was away for longer than its tokens live.
    pub(super) fn ended(&mut self, device: usize, code: ErrorCode) {
        let reader = &mut self.readers[device];
        (reader.ended, reader.closed, reader.logged_out_alone) = (true, true, false);
        let excused = reader.lied || reader.stolen || reader.may_have_old_tokens();
        let wanted = reader.sender.is_none_or(|sender| {
            self.logs.logged_out.contains(&sender) || !self.logs.is_active(sender)
        });
        let expected = excused || wanted || code == ErrorCode::TokenExpired;
        self.check(expected, "no session ends without a cause", || format!("{device}: {code:?}"));
    }
}
