//! A fuzzer's bytes as a script: any bytes are one, and when they are at their end, everything reads as zero.

/// Reads a script.
#[derive(Clone, Debug)]
pub(super) struct Script {
    bytes: Vec<u8>,
    at: usize,
}

/// Most edits of one text.
const EDITS: u8 = 8;
/// Numbers at which bounds lie.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    0x3FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_FFFE,
    0xFFFF_FFFF_FFFF_FFFF,
];

impl Script {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        byte
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `sides`; 0 if there are none.
    pub(super) fn pick(&mut self, sides: usize) -> usize {
        let roll = if sides > 256 { self.u16().into() } else { usize::from(self.byte()) };
        if sides == 0 { 0 } else { roll % sides }
    }

    pub(super) fn of<T: Copy>(&mut self, among: &[T]) -> Option<T> {
        let at = self.pick(among.len());
        among.get(at).copied()
    }

    /// A number: one at a bound, or any small one.
    pub(super) fn number(&mut self) -> u64 {
        let byte = self.byte();
        let bound = usize::from(byte).checked_sub(256 - NUMBERS.len());
        bound.map_or(byte.into(), |at| NUMBERS[at])
    }

    /// So many bytes; fewer at the end.
    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let from = self.at.min(self.bytes.len());
        let to = from.saturating_add(len).min(self.bytes.len());
        self.at = to;
        self.bytes[from..to].to_vec()
    }

    /// A text with its length before it.
    pub(super) fn text(&mut self) -> Vec<u8> {
        let len = self.u16();
        self.take(len.into())
    }

    /// What is left, as a script of its own after the first `u16` bytes of it.
    pub(super) fn split(&mut self) -> (Self, Self) {
        let first = self.text();
        (Self { bytes: first, at: 0 }, Self { bytes: self.take(usize::MAX), at: 0 })
    }

    /// The text with a few edits, or another one altogether.
    pub(super) fn edited(&mut self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        match self.byte() {
            0xFF => return self.text(),
            edits => (0..edits % EDITS).for_each(|_| self.edit(&mut text)),
        }
        text
    }

    fn edit(&mut self, text: &mut Vec<u8>) {
        let kind = self.byte() % 7;
        let at = usize::from(self.u16()) % (text.len() + 1);
        let most = text.len() - at;
        match kind {
            0 => {
                let byte = self.byte();
                text[at..].iter_mut().take(1).for_each(|old| *old = byte);
            }
            1 => {
                let bit = self.byte() % 8;
                text[at..].iter_mut().take(1).for_each(|old| *old ^= 1 << bit);
            }
            2 => {
                let (number, len) = (self.number(), 1 << self.pick(4));
                let bytes = number.to_be_bytes();
                let bytes = bytes[8 - len..].iter().copied();
                text[at..].iter_mut().zip(bytes).for_each(|(old, new)| *old = new);
            }
            3 => {
                let more = usize::from(self.byte());
                let more = self.take(more);
                text.splice(at..at, more);
            }
            4 => {
                let len = usize::from(self.byte()).min(most);
                text.drain(at..at + len);
            }
            5 => {
                let len = usize::from(self.byte()).min(most);
                let again = text[at..at + len].to_vec();
                text.splice(at..at, again);
            }
            _ => text.truncate(at),
        }
    }
}
