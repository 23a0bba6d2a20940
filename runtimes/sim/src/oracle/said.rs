//! What somebody was told to send, and where it came to be in the log.

use qpc_protocol::id::ChannelId;

use super::Oracle;
use super::wire::PLANTED;

/// A message that somebody was told to send.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) device: usize,
    pub(super) channel: ChannelId,
    pub(super) body: Vec<u8>,
    /// Where it is in the log, once that is known.
    pub(super) at: Option<u64>,
    pub(super) failed: bool,
    /// Whether it has a place among the others of its sender: a backup that is put back sends again what was queued
    /// then, after what was queued since, and a server without room takes what comes once it has room again.
    ordered: bool,
}

impl Oracle {
    /// A text that nobody has sent yet, of about that length.
    pub(crate) fn text(&mut self, device: usize, channel: ChannelId, bytes: usize) -> Vec<u8> {
        let mut body = format!("{PLANTED}-{:08x}-", self.said.len()).into_bytes();
        body.resize(body.len().max(bytes), b'.');
        let said =
            Said { device, channel, body: body.clone(), at: None, failed: false, ordered: true };
        self.said.push(said);
        body
    }

    /// The number of the last text.
    pub(crate) fn last_text(&self) -> u32 {
        u32::try_from(self.said.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }

    /// A text's place in the log is known: after all that its sender queued there before, and before all since.
    pub(super) fn placed(&mut self, number: u32, seq: u64) {
        let Some(said) = self.said.get_mut(number as usize) else { return };
        let known = said.at.replace(seq) == Some(seq);
        let (device, channel, ordered) = (said.device, said.channel, said.ordered);
        if known || !ordered || self.readers[device].lied {
            return;
        }
        let of_sender = |said: &Said| {
            said.device == device && said.channel == channel && said.ordered && !said.failed
        };
        let mut others = (0..).zip(&self.said).filter(|(_, said)| of_sender(said));
        let turned = others.find_map(|(other, said)| {
            let at = said.at?;
            (other != number && (other < number) != (at < seq)).then_some((other, at))
        });
        self.check(turned.is_none(), "one sender's messages keep their order", || {
            format!("device {device}, {channel}: text {number} at seq {seq}, and {turned:?}")
        });
    }

    /// The server had no room for a while, or its disk failed. What it refused then is sent again, and what was on its way behind that may
    /// have been taken meanwhile.
    pub(crate) fn server_has_room(&mut self) {
        let on_their_way = self.said.iter_mut().filter(|said| said.at.is_none());
        on_their_way.for_each(|said| said.ordered = false);
    }

    /// A device goes on from an older state of its disk.
    pub(super) fn forget_order(&mut self, device: usize) {
        let of_device = self.said.iter_mut().filter(|said| said.device == device);
        of_device.for_each(|said| said.ordered = false);
    }
}
