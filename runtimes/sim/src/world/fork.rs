//! A server with two histories: its operator goes on from a copy of the store as well, and leads some devices there.

use core::mem::swap;

use qpc_protocol::server::Server;
use qpc_protocol::server::memory::MemoryStore;

use super::{Storage, World};

/// The history that is not under way just now.
pub(super) struct Fork {
    server: Option<Server>,
    store: MemoryStore,
    storage: Storage,
}

impl World {
    /// From now on these devices are led into a history of their own, which begins with what there is now.
    pub fn fork(&mut self, devices: &[usize]) {
        self.join_forks();
        let server = Some(self.make_server());
        self.fork = Some(Fork { server, store: self.store.clone(), storage: Storage::default() });
        for device in devices {
            self.devices[*device].forked = true;
            self.cut(*device);
        }
    }

    /// All are led into the first history again; whether there was another.
    pub fn join_forks(&mut self) -> bool {
        for device in 0..self.devices.len() {
            if core::mem::take(&mut self.devices[device].forked) {
                self.cut(device);
            }
        }
        self.fork.take().is_some()
    }

    pub(super) fn is_forked(&self) -> bool {
        self.fork.is_some()
    }

    /// Runs something in the history of whoever is forked, or of who is not.
    pub(super) fn in_history<T>(&mut self, forked: bool, run: impl FnOnce(&mut Self) -> T) -> T {
        if forked == self.in_fork {
            return run(self);
        }
        self.turn();
        let done = run(self);
        self.turn();
        done
    }

    fn turn(&mut self) {
        let Some(fork) = &mut self.fork else { return };
        swap(&mut self.server, &mut fork.server);
        swap(&mut self.store, &mut fork.store);
        swap(&mut self.storage, &mut fork.storage);
        self.in_fork = !self.in_fork;
    }
}
