//! Reading stored records: one page, or all under a prefix, page after page.

use super::Client;
use crate::error::Fatal;
use crate::id::ChannelId;
use crate::io::{LoadId, Output, Page, Ticket};
use crate::store::batch::Records;

/// Records read with one load.
pub(super) const LOAD_PAGE: usize = 1024;

/// What a page is for.
pub(super) enum Loading {
    Messages(ChannelId),
    Proofs(Ticket, ChannelId),
    /// The chunk with this offset of what a commit names.
    Chunk(Ticket, u64),
    /// One of the pages of a read.
    Part(Read),
}

/// What is read whole.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    Group(ChannelId),
    /// The group that this device fell out of.
    Old(ChannelId),
    /// The group that this device is about to come back to.
    Spare(ChannelId),
    Packages,
}

/// A read, as far as it has come. It goes by the id of its first page.
pub(super) struct Read {
    id: LoadId,
    what: Reading,
    prefix: Vec<u8>,
    /// Their keys are without the prefix.
    gathered: Records,
}

impl Client {
    /// Asks for a page.
    pub(super) fn load(&mut self, what: Loading, page: Page) {
        let id = LoadId(self.next_handle());
        self.load_as(id, what, page);
    }

    /// Asks for all records under a prefix; they come under the id given back.
    pub(super) fn read(&mut self, what: Reading, prefix: Vec<u8>) -> LoadId {
        let id = LoadId(self.next_handle());
        let page = Page { prefix: prefix.clone(), after: None, most: LOAD_PAGE };
        self.load_as(id, Loading::Part(Read { id, what, prefix, gathered: Records::new() }), page);
        id
    }

    fn load_as(&mut self, id: LoadId, what: Loading, page: Page) {
        self.loads.insert(id, what);
        self.out.push_back(Output::Load(id, page));
    }

    pub(super) fn on_loaded(&mut self, id: LoadId, records: Records) -> Result<(), Fatal> {
        match self.loads.remove(&id) {
            Some(Loading::Proofs(ticket, channel)) => self.on_proofs(ticket, channel, &records),
            Some(Loading::Messages(channel)) => self.on_messages(channel, records),
            Some(Loading::Chunk(ticket, at)) => self.on_stored_chunk(ticket, at, &records),
            Some(Loading::Part(read)) => self.read_on(read, records),
            None => return Err(Fatal::Misuse("records were delivered that were not asked for")),
        }
        Ok(())
    }

    fn read_on(&mut self, mut read: Read, page: Records) {
        let full = page.len() == LOAD_PAGE;
        let after = page.last().map(|(key, _)| key.clone()).filter(|_| full);
        let strip = read.prefix.len();
        read.gathered.extend(page.into_iter().map(|(key, value)| (key[strip..].to_vec(), value)));
        if after.is_some() {
            let page = Page { prefix: read.prefix.clone(), after, most: LOAD_PAGE };
            return self.load(Loading::Part(read), page);
        }
        let Read { id, what, gathered, .. } = read;
        match what {
            Reading::Group(channel) => self.on_group_records(channel, id, gathered),
            Reading::Old(channel) => self.on_old_records(channel, id, gathered),
            Reading::Spare(channel) => self.on_spare_records(channel, id, gathered),
            Reading::Packages => self.on_package_records(id, gathered),
        }
    }
}
