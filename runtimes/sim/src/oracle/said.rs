//! What somebody was told to send, and where it came to be in the log.

use std::time::Duration;

use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::RESEND_TIME;

use super::Oracle;
use super::wire::PLANTED;

/// A message that somebody was told to send.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) device: usize,
    pub(super) channel: ChannelId,
    pub(super) body: Vec<u8>,
    since: Duration,
    /// Where it is in the log, once that is known.
    pub(super) at: Option<u64>,
    pub(super) failed: bool,
    /// Its sender's words were changed, or what it was told of them.
    pub(super) spoilt: bool,
    /// Whether it has a place among the others of its sender: a backup that is put back sends again what was queued
    /// then, after what was queued since, and a server without room takes what comes once it has room again.
    ordered: bool,
}

impl Oracle {
    /// A text that nobody has sent yet, of about that length.
    pub(crate) fn text(&mut self, device: usize, channel: ChannelId, bytes: usize) -> Vec<u8> {
        let start = Self::start(0).len();
        self.words(device, channel, &".".repeat(bytes.saturating_sub(start)))
    }

    fn start(number: usize) -> String {
        format!("{PLANTED}-{number:08x}-")
    }

    /// A text that nobody has sent yet, with these words at its end.
    pub(crate) fn words(&mut self, device: usize, channel: ChannelId, words: &str) -> Vec<u8> {
        let body = [Self::start(self.said.len()).as_str(), words].concat().into_bytes();
        let spoilt = self.readers[device].lied;
        let said = Said {
            device,
            channel,
            body: body.clone(),
            since: self.now,
            at: None,
            failed: false,
            spoilt,
            ordered: true,
        };
        self.said.push(said);
        body
    }

    /// Whether a text was said so long ago that nobody may know any more what became of it, whatever the clocks show.
    pub(super) fn is_long_ago(&self, number: u32) -> bool {
        let said = self.said.get(number as usize);
        said.is_some_and(|said| self.now.saturating_sub(said.since) > RESEND_TIME / 2)
    }

    /// A device's words are changed from now on: those too that are on their way.
    pub(super) fn spoil(&mut self, device: usize) {
        let on_their_way = |said: &&mut Said| said.device == device && said.at.is_none();
        self.said.iter_mut().filter(on_their_way).for_each(|said| said.spoilt = true);
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
        if known || !ordered || self.said[number as usize].spoilt {
            return;
        }
        let of_sender = |said: &Said| {
            said.device == device
                && said.channel == channel
                && said.ordered
                && !said.failed
                && !said.spoilt
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

    /// The server had no room for a while, or its disk failed. What it refused then is sent again, and what was on its
    /// way behind that may have been taken meanwhile.
    pub(crate) fn server_has_room(&mut self) {
        let on_their_way = self.said.iter_mut().filter(|said| said.at.is_none());
        on_their_way.for_each(|said| said.ordered = false);
    }

    /// A device goes on from an older state of its disk, in which these are queued.
    pub(super) fn sent_again(&mut self, device: usize, queued: Vec<u32>) {
        let of_device = self.said.iter_mut().filter(|said| said.device == device);
        of_device.for_each(|said| said.ordered = false);
        for number in queued {
            self.said[number as usize].failed = false;
        }
    }

    /// A crash left nothing of these.
    pub(super) fn never_read(&mut self, lost: Vec<u32>) {
        for number in lost {
            let Some(said) = self.said.get_mut(number as usize) else { continue };
            said.failed = true;
            let read = said.at;
            self.check(read.is_none(), "what a crash left nothing of is not read", || {
                format!("text {number}")
            });
        }
    }
}
