//! Links: two queues of bytes each, of which an end takes what it asked for.

use std::collections::VecDeque;

use qpc_protocol::io::{Gone, Input, LinkId};
use qpc_protocol::limits::READ_CHUNK;

use super::{CREDIT, Town};
use crate::Error;

/// One direction of a link.
#[derive(Default)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    fin: bool,
    wanted: bool,
}

pub(super) struct Wire {
    pub(super) device: usize,
    pub(super) at_device: LinkId,
    up: Pipe,
    down: Pipe,
}

impl Town {
    pub(super) fn open(&mut self, index: usize, link: LinkId) -> Result<(), Error> {
        let Some((_, conn)) = self.devices[index].conn else { return Ok(()) };
        let id = LinkId(self.next_id());
        let (up, down) = (Pipe::default(), Pipe::default());
        self.wires.insert(id, Wire { device: index, at_device: link, up, down });
        self.at_device.insert((index, link), id);
        self.tell_server(Input::Accepted(conn, id))?;
        self.tell_server(Input::Writable(id, CREDIT))?;
        self.tell_device(index, Input::Writable(link, CREDIT))
    }

    /// All links of a device are gone.
    pub(super) fn cut(&mut self, index: usize) {
        let ends = (index, LinkId(0))..=(index, LinkId(u64::MAX));
        let links: Vec<_> = self.at_device.range(ends).map(|(at, id)| (*at, *id)).collect();
        for (at, id) in links {
            self.at_device.remove(&at);
            self.wires.remove(&id);
        }
    }

    pub(super) fn put(&mut self, id: LinkId, up: bool, bytes: &[u8], fin: bool) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let pipe = if up { &mut wire.up } else { &mut wire.down };
        pipe.bytes.extend(bytes);
        pipe.fin |= fin;
        self.moving.insert(id);
    }

    /// The device (`down`) or the server wants bytes of a link.
    pub(super) fn want(&mut self, id: LinkId, down: bool) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let pipe = if down { &mut wire.down } else { &mut wire.up };
        pipe.wanted = true;
        self.moving.insert(id);
    }

    /// Carries what is wanted; whether there was anything.
    pub(super) fn carry_all(&mut self) -> Result<bool, Error> {
        let mut moved = false;
        for id in core::mem::take(&mut self.moving) {
            moved |= self.carry(id, true)? | self.carry(id, false)?;
        }
        Ok(moved)
    }

    fn carry(&mut self, id: LinkId, up: bool) -> Result<bool, Error> {
        let Some(wire) = self.wires.get_mut(&id) else { return Ok(false) };
        let (device, at_device) = (wire.device, wire.at_device);
        let pipe = if up { &mut wire.up } else { &mut wire.down };
        let len = pipe.bytes.len().min(READ_CHUNK);
        let ended = len == 0 && pipe.fin;
        if !pipe.wanted || (len == 0 && !ended) {
            return Ok(false);
        }
        pipe.wanted = false;
        pipe.fin &= !ended;
        let bytes: Vec<u8> = pipe.bytes.drain(..len).collect();
        match (up, ended) {
            (true, true) => self.tell_server(Input::Closed(id, Gone::Finished))?,
            (false, true) => self.tell_device(device, Input::Closed(at_device, Gone::Finished))?,
            (true, false) => {
                self.tell_server(Input::Bytes(id, &bytes))?;
                self.tell_device(device, Input::Writable(at_device, len))?;
            }
            (false, false) => {
                self.tell_device(device, Input::Bytes(at_device, &bytes))?;
                self.tell_server(Input::Writable(id, len))?;
            }
        }
        Ok(true)
    }
}
